"""The rows that were there before, as events `r`: markers, event ids, envelopes. Pure.

To consumers they are history, not news. The markers are Debezium's: `first` to `last` of a snapshot that was read in
one go, `incremental` of rows that were read while the stream flowed; `recovery`, after a lost slot, is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from cdc.contract.envelope import HEADER_EVENT_ID, HEADER_SCHEMA, SCHEMA_VERSION
from cdc.contract.event import Event
from cdc.contract.position import key_digest, snapshot_event_id
from cdc.rows import TablePlan
from cdc.source import clock_json, source_json


class OldRow(msgspec.Struct, frozen=True, gc=False):
    """A row that was there before, rendered."""

    key: bytes | None
    after: bytes
    #: Its key as PostgreSQL's text, which reading can go on behind; empty where that may not leave the database.
    place: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """What every row of one snapshot has in common."""

    name: str
    database: str
    epoch: int
    lsn: int
    #: None where the rows are of several transactions' time.
    xid: int | None
    taken_us: int


class Envelopes:
    """Makes the events of one table's rows. What does not change from row to row is rendered once."""

    def __init__(self, origin: Origin, plan: TablePlan) -> None:
        self._origin = origin
        self._plan = plan
        # Whatever key is hashed in the end.
        self._id = snapshot_event_id(origin.name, origin.epoch, origin.lsn, plan.title, b"").rpartition(":")[0]
        self._sources: dict[str, bytes] = {}
        self._tails: dict[str, bytes] = {}
        self._now_ns = 0
        self._rows = 0

    def event(self, row: OldRow, marker: str, now_ns: int) -> Event:
        """Make the event of a row. Rows without a key are told apart by their number, as equal ones may be there."""
        if now_ns != self._now_ns:
            self._now_ns = now_ns
            self._tails.clear()
        self._rows += 1
        told_by = row.key or b"%d:%b" % (self._rows, row.after)
        headers = [(HEADER_EVENT_ID, f"{self._id}:{key_digest(told_by)}".encode()), (HEADER_SCHEMA, SCHEMA_VERSION)]
        value = b'{"before":null,"after":' + row.after + (self._tails.get(marker) or self._tail(marker))
        return Event(self._plan.topic, row.key, value, headers, self._plan.title, "r")

    def _tail(self, marker: str) -> bytes:
        """Render what follows a row; it is the same for all that are made at one time."""
        source = self._sources.get(marker) or self._source(marker)
        tail = b',"source":%b,"transaction":null,"op":"r",%b}' % (source, clock_json(self._now_ns))
        self._tails[marker] = tail
        return tail

    def _source(self, marker: str) -> bytes:
        origin = self._origin
        source = self._sources[marker] = source_json(
            origin.name,
            origin.database,
            self._plan.source_tail,
            micros=origin.taken_us,
            snapshot=marker,
            sequence=(None, origin.lsn),
            xid=origin.xid,
        )
        return source


class Markers:
    """Passes rows on one late, so that the last ones can be marked as Debezium marks them."""

    def __init__(self, publish: Callable[[TablePlan, OldRow, str], None]) -> None:
        self._publish = publish
        self._waiting: tuple[TablePlan, OldRow, str] | None = None
        self._rows = 0

    def add(self, plan: TablePlan, row: OldRow) -> None:
        """Take a row, publish the one before it."""
        first_of_table = self._waiting is None or self._waiting[0] is not plan
        marker = "first" if self._rows == 0 else "first_in_data_collection" if first_of_table else "true"
        if self._waiting is not None:
            before, waiting_row, waiting_marker = self._waiting
            ends = first_of_table and waiting_marker != "first"
            self._publish(before, waiting_row, "last_in_data_collection" if ends else waiting_marker)
        self._waiting = (plan, row, marker)
        self._rows += 1

    def end(self) -> None:
        """Publish the last row."""
        if self._waiting is not None:
            plan, row, _ = self._waiting
            self._publish(plan, row, "last")
            self._waiting = None
