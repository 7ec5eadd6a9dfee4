"""Which rows of a chunk are still true where the stream stands when it is published. Pure.

A chunk is read while the stream flows. Its own snapshot is the low watermark: it says of every transaction whether the
chunk has seen it, also of one that is in the WAL already and not yet visible, which an LSN could not tell. The high
watermark is a message written after the chunk was read: whatever the chunk has seen comes before it in the stream. What
came before it and is unknown to the chunk is newer than the chunk's row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from cdc.contract.envelope import HEADER_OLD_KEY, UNAVAILABLE
from cdc.contract.event import Event
from cdc.contract.xid import Seen

#: A row that the stream changed: its topic and key; no key: every row of the topic (a truncate).
_Place = tuple[str, bytes | None]
#: What the stream showed of a row: None when all of it, else the images that lack unchanged TOASTed values.
_Images = list[bytes] | None

_UNAVAILABLE = msgspec.json.encode(UNAVAILABLE)
#: More is not remembered: the window is then to be opened anew, and the chunk to be read again.
_MAX_PLACES = 50_000
_MAX_BYTES = 8_000_000


class _After(msgspec.Struct):
    after: msgspec.Raw = msgspec.Raw(b"null")


_after = msgspec.json.Decoder(_After)
_row = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Window:
    """What the stream has shown since reading began, and the snapshot of the next chunk may not see.

    It holds for chunks whose snapshot sees every transaction that was running when the window was opened: of any other
    one it knows whether the stream has shown it.
    """

    def __init__(self) -> None:
        #: By transaction, in the stream's order.
        self._touched: dict[int, dict[_Place, _Images]] = {}
        self._visible: Seen | None = None
        self._places = self._bytes = 0
        #: There was too much to remember.
        self.overflown = False

    def passed(self, xid: int, events: Iterable[Event]) -> None:
        """Note what a change of the stream touched, be it published now or before."""
        if self.overflown or (self._visible and self._visible.includes(xid)):
            return
        touched = self._touched.setdefault(xid, {})
        for event in events:
            if event.op != "tombstone" and (event.key is not None or event.op == "t"):
                self._places += 1
                place = (event.topic, event.key)
                touched[place] = self._images(touched.get(place, []), event)
        self.overflown = self._places > _MAX_PLACES or self._bytes > _MAX_BYTES

    def _images(self, before: _Images, event: Event) -> _Images:
        """Add an image that lacks values to those before it; a whole one, or a deletion, says all."""
        if before is None or event.op not in ("u", "c") or _UNAVAILABLE not in (event.value or b""):
            return None
        after = bytes(_after.decode(event.value or b"").after)
        self._bytes += len(after)
        return [*before, after]

    def forget(self, visible: Seen) -> None:
        """Forget what this snapshot sees: so does every later one."""
        if visible is not self._visible:
            self._visible = visible
            self._touched = {xid: touched for xid, touched in self._touched.items() if not visible.includes(xid)}
            self._places = sum(map(len, self._touched.values()))
            self._bytes = 0

    def still_true(self, visible: Seen, topic: str, rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Give the rows of a chunk that may be published at this place of the stream, behind its high watermark.

        A row that is newer in the stream is left out: its newer image is there. Where that image lacks unchanged
        TOASTed values, the row is given as the stream left it, or nobody would ever see them.
        """
        images: dict[bytes | None, _Images] = {}
        for xid, touched in self._touched.items():
            if visible.includes(xid):
                continue
            for (of_topic, key), shown in touched.items():
                if of_topic == topic and (key is None or key in rows):
                    before = images.get(key, [])
                    images[key] = None if shown is None or before is None else before + shown
        if None in images:
            return {}
        return {key: _overlaid(row, shown) for key, row in rows.items() if (shown := images.get(key, [])) is not None}


class Created:
    """Rows that the stream brought as `c` since their table was asked for: whoever reads it has them, and needs no `r`.

    A row that came under another key is none of these: nobody was told of it as created. It holds some, not all: a row
    that it does not hold comes twice.
    """

    def __init__(self) -> None:
        self._keys: dict[str, set[bytes]] = {}

    def published(self, events: Iterable[Event]) -> None:
        """Note what the stream brought, and what it took."""
        for event in events:
            if event.op == "t":
                self.forget(event.topic)
            elif event.key is not None and event.op in ("c", "d"):
                keys = self._keys.setdefault(event.topic, set())
                if event.op == "d":
                    keys.discard(event.key)
                elif len(keys) < _MAX_PLACES and all(name != HEADER_OLD_KEY for name, _ in event.headers):
                    keys.add(event.key)

    def of(self, topic: str) -> Collection[bytes]:
        """Give the keys of a topic."""
        return self._keys.get(topic, frozenset())

    def forget(self, topic: str) -> None:
        """Let the rows come that are there now: somebody asks for the table, or it was emptied."""
        self._keys.pop(topic, None)


def _overlaid(row: bytes, images: list[bytes]) -> bytes:
    if not images:
        return row
    columns = _row.decode(row)
    for image in images:
        columns.update((name, value) for name, value in _row.decode(image).items() if bytes(value) != _UNAVAILABLE)
    return msgspec.json.encode(columns)
