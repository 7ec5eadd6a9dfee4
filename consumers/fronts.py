"""Where the next claim of each lane begins to look: about where the last one ended.

Whatever became due later than that is behind it. What became due earlier and was not seen (a transaction that was long
in committing, one that gave its rows up again) is found by a claim that begins at the beginning, once a minute.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timedelta

#: How far behind the last claimed delivery others may still appear, and how often a claim looks everywhere.
_MARGIN = timedelta(seconds=60)
_EVERYWHERE_S = 60.0


class Fronts:
    """What one process knows of its lanes' due times, by the database's clock."""

    def __init__(self) -> None:
        self._due: dict[str, datetime] = {}
        self._everywhere_at = 0.0

    def sinces(self, lanes: Iterable[str]) -> list[str]:
        """Say for each lane from when on its due deliveries are looked for."""
        if time.monotonic() >= self._everywhere_at:
            self._everywhere_at = time.monotonic() + _EVERYWHERE_S
            self._due.clear()
        return [(self._due[lane] - _MARGIN).isoformat() if lane in self._due else "-infinity" for lane in lanes]

    def claimed(self, found: Iterable[tuple[str, datetime]]) -> None:
        """Take note of when claimed deliveries were due."""
        for lane, due_at in found:
            self._due[lane] = max(due_at, self._due.get(lane, due_at))
