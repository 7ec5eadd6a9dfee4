"""Mails and calls at which the other side is lost each time, while it takes others: one of them must not stop all."""

from __future__ import annotations

import threading

#: Of so many it is remembered: an outage touches few, as one delivery at a time probes a lane.
_MOST = 1000


class Losses:
    """What one relay or service was lost at, by its identity, and whether it took others since. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._taken_at: dict[str, int] = {}  # what it was lost at -> how many were taken until then

    def taken(self, identity: str) -> None:
        """Note that the other side took one."""
        with self._lock:
            self._taken += 1
            self._taken_at.pop(identity, None)

    def is_its_own(self, identity: str) -> bool:
        """Note a loss; tell whether the same was lost before and others were taken since."""
        with self._lock:
            before = self._taken_at.pop(identity, None)
            self._taken_at[identity] = self._taken
            if len(self._taken_at) > _MOST:
                del self._taken_at[next(iter(self._taken_at))]
            return before is not None and before < self._taken
