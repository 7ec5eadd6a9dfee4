"""Which rows changed their key before the snapshot beside the stream came to them, and are yet to be told whole. Pure.

A row that goes to where reading has been is not met again, and a TOASTed value that it leaves unchanged is not in the
stream. So the table is read once more, for such rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from cdc.contract.envelope import HEADER_NEW_KEY, HEADER_OLD_KEY, UNAVAILABLE
from cdc.contract.event import Event
from cdc.watermark import Created

_UNAVAILABLE = msgspec.json.encode(UNAVAILABLE)
#: More is not remembered: every row is then told again.
_MAX_KEYS = 50_000


class Moved:
    """Keys of rows that came under another key and lack values. Whether they were told of before is not known.

    Once the rest of the table is told, it is: then only rows that are looked for are followed, or there might be no
    end.
    """

    def __init__(self) -> None:
        #: By topic: what came so, and was not told since.
        self._came: dict[str, set[bytes]] = {}
        #: By topic, where the table is read again: what is looked for, None for every row.
        self._sought: dict[str, set[bytes] | None] = {}

    def published(self, events: Iterable[Event]) -> None:
        """Note what moved, and what was told."""
        for event in events:
            if event.op == "t":
                self._came.pop(event.topic, None)
                self._sought.update({event.topic: set()} if event.topic in self._sought else {})
            elif event.key is not None and event.value is not None:
                self._note(event, event.key, lacking=event.op in ("c", "u") and _UNAVAILABLE in event.value)

    def told(self, topic: str, keys: Iterable[bytes | None]) -> None:
        """Note rows that are told whole, or gone."""
        for known in (self._came.get(topic), self._sought.get(topic)):
            if known:
                known.difference_update(keys)

    def lacks(self, topic: str, key: bytes | None) -> bool:
        """Tell whether a row is looked for."""
        sought = self._sought.get(topic, ())
        return sought is None or key in sought or key in self._came.get(topic, ())

    def seek(self, topic: str) -> bool:
        """Begin to look for what came since this was last asked; tell whether there is any. Nothing else is left."""
        came = self._came.pop(topic, set())
        self._sought[topic] = came if len(came) < _MAX_KEYS else None
        return bool(came)

    def stop(self, topic: str) -> None:
        """Be done with looking."""
        self._sought.pop(topic, None)

    def _note(self, event: Event, key: bytes, *, lacking: bool) -> None:
        if lacking and event.op == "u":
            return  # what is lacking is lacking still
        lacked = self.lacks(event.topic, key)
        self.told(event.topic, (key,))
        headers = dict(event.headers)
        if event.op == "d" and lacked and (new_key := headers.get(HEADER_NEW_KEY)):
            self._add(event.topic, new_key)
        elif lacking and (lacked or (HEADER_OLD_KEY in headers and event.topic not in self._sought)):
            self._add(event.topic, key)

    def _add(self, topic: str, key: bytes) -> None:
        came = self._came.setdefault(topic, set())
        if len(came) < _MAX_KEYS:
            came.add(key)


class Streamed(NamedTuple):
    """What is known of the rows that the stream brought since their tables were asked for."""

    created: Created
    moved: Moved

    def published(self, events: list[Event]) -> None:
        """Note what the stream brought."""
        self.created.published(events)
        self.moved.published(events)
