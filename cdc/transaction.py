"""The transaction whose lines are being read: what all of its events say of it, and how many they are. Pure."""

from __future__ import annotations

from typing import Final

from cdc.contract.envelope import HEADER_EVENT_ID, HEADER_NOTIFY, HEADER_SCHEMA, SCHEMA_VERSION
from cdc.contract.event import Headers
from cdc.source import Moment, microseconds
from cdc.wal2json import Begin

#: An event's place in its transaction. Debezium's `id` is the transaction's and, behind a colon, the event's own LSN.
ORDER = b'{"id":"%b:%b","total_order":%b,"data_collection_order":%b}'
_SCHEMA: Final = (HEADER_SCHEMA, SCHEMA_VERSION)
_NO_NOTIFY: Final = (HEADER_NOTIFY, b"0")


class Transaction:
    """What is the same for all events of a transaction is rendered once."""

    __slots__ = ("_events", "_events_of_table", "_ids", "_moment", "commit_us", "notify", "xid")

    def __init__(self, begin: Begin, origin: bytes, previous_lsn: int | None, ids: bytes) -> None:
        """`origin` is a name as JSON, `ids` what stands before the ordinal in the ids of its events."""
        self.xid = begin.xid
        self.commit_us = microseconds(begin.timestamp)
        self.notify = True
        self._moment = Moment(self.commit_us, previous_lsn, begin.xid, origin)
        self._ids = ids
        self._events = 0
        self._events_of_table: dict[str, int] = {}

    def count(self, table: str, lsn: int) -> list[bytes]:
        """Count an event; give what a template of `source` and then ORDER takes."""
        self._events += 1
        of_table = self._events_of_table[table] = self._events_of_table.get(table, 0) + 1
        at = b"%d" % lsn
        return [*self._moment.around(at), self._moment.xid, at, b"%d" % self._events, b"%d" % of_table]

    def headers(self, index: int) -> Headers:
        """Give the headers of the event that the line of this ordinal becomes."""
        return headers_of(b"%b%d" % (self._ids, index), notify=self.notify)


def headers_of(event_id: bytes, *, notify: bool) -> Headers:
    """Write the headers of an event."""
    written = [(HEADER_EVENT_ID, event_id), _SCHEMA]
    if not notify:
        written.append(_NO_NOTIFY)
    return written
