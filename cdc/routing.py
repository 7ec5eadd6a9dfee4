"""From a change to the records that it becomes: topic, key, envelope, headers, event id. Pure.

The envelope is put together from bytes: column names, types and the constant parts of `source` are rendered once a
table, values only where wal2json's JSON is not already what Debezium would write.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import msgspec

from cdc.contract.envelope import (
    HEADER_EVENT_ID,
    HEADER_NEW_KEY,
    HEADER_NOTIFY,
    HEADER_OLD_KEY,
    HEADER_SCHEMA,
    SCHEMA_VERSION,
)
from cdc.contract.event import Event, Headers
from cdc.contract.position import Position, event_id, parse_lsn
from cdc.contract.topics import message_topic
from cdc.cutting import table_in
from cdc.rows import TablePlan
from cdc.source import clock_json, microseconds, source_frame, source_json
from cdc.values import FAULTS
from cdc.wal2json import Begin, Change, Commit, Delete, Insert, Message, RowChange, Truncate, Update

_json = msgspec.json.encode
#: The prefix of messages that are for pgherald: read, never published.
OWN_PREFIX = "pgherald"


@dataclass(slots=True)
class _Transaction:
    """The transaction whose lines are being read."""

    xid: int
    commit_us: int
    #: The name of the replication origin that it was written under, as JSON.
    origin: bytes
    #: The commit before it, which Debezium writes into `source.sequence`.
    previous_lsn: int | None
    first_lsn: int | None = None
    events: int = 0
    events_of_table: dict[str, int] = field(default_factory=dict)
    #: `source` by table.
    frames: dict[str, bytes] = field(default_factory=dict)
    notify: bool = True


class Tables(Protocol):
    """Knows how the lines of each table are written."""

    def plan(self, change: RowChange | Truncate, xid: int) -> TablePlan | None:
        """Find the plan of a line of a transaction; None where it is not to be published."""

    def known(self, table: bytes) -> TablePlan | None:
        """Give the plan of every line that shows the whole shape of this table (as `table_in` gives it)."""

    def look(self) -> None:
        """Now and then, see what became of the tables."""


class Router:
    """Turns the lines of the slot, in order, into records. Keeps the open transaction, no more.

    Every line must pass through `events`, also those already published: order numbers and flags depend on them.
    """

    def __init__(
        self,
        name: str,
        database: str,
        epoch: int,
        tables: Tables,
        origin_name: Callable[[int], str | None] = lambda _id: None,
    ) -> None:
        self._name = name
        self._database = database
        self._epoch = epoch
        self.tables = tables
        self._origin_name = cache(origin_name)
        self._open: _Transaction | None = None
        self._last_commit_lsn: int | None = None

    @property
    def commit_us(self) -> int:
        """When the open transaction was committed, in microseconds since 1970; 0 outside of one."""
        return self._open.commit_us if self._open else 0

    def events(self, change: Change, position: Position, now_ns: int) -> list[Event]:
        """Give the records of one line: none for B, C and messages of our own, three for a key change.

        Raises ChangeUndecodable when a value can't be written.
        """
        if isinstance(change, RowChange):
            return self._row(change, position, now_ns)
        if isinstance(change, Begin):
            origin = _json(self._origin_name(change.origin)) if change.origin else b"null"
            self._open = _Transaction(change.xid, microseconds(change.timestamp), origin, self._last_commit_lsn)
        elif isinstance(change, Commit):
            self._last_commit_lsn = parse_lsn(change.nextlsn)
            self._open = None
        elif isinstance(change, Truncate):
            return list(self._truncate(change, position, now_ns))
        elif isinstance(change, Message):
            return self._message(change, position, now_ns)
        return []

    def quick(self, line: bytes, position: Position, now_ns: int) -> Event | None:
        """Give the event of an insert or update that can be cut out of its line; None: it is to be decoded."""
        plan = self.tables.known(table_in(line))
        if plan is None or plan.cutter is None or (cut := plan.cutter.cut(line)) is None:
            return None
        id_ = event_id(self._name, self._epoch, position)
        return self._event(plan, cut.lsn, cut.op, cut.key, (cut.before, cut.after), id_, [], now_ns)

    def _row(self, change: RowChange, position: Position, now_ns: int) -> list[Event]:
        plan = self._plan(change)
        if plan is None:
            return []
        try:
            return list(self._row_events(plan, change, position, now_ns))
        except FAULTS:
            raise plan.unwritable(change) from None  # not `from` it: its text shows the value

    def _row_events(self, plan: TablePlan, change: RowChange, position: Position, now_ns: int) -> Iterator[Event]:
        before, after = plan.rows(change)
        key, old_key = plan.keys(change)
        if isinstance(change, Update) and old_key is not None and old_key != key:
            yield from self._key_change(plan, change, position, now_ns, (before, after), (key, old_key))
            return
        op = "c" if isinstance(change, Insert) else "u" if isinstance(change, Update) else "d"
        id_ = event_id(self._name, self._epoch, position)
        yield self._event(plan, change.lsn, op, key, (before, after), id_, [], now_ns)
        if isinstance(change, Delete) and key is not None:
            yield Event(plan.topic, key, None, self._headers(id_), plan.title, "tombstone")

    def _key_change(
        self,
        plan: TablePlan,
        change: RowChange,
        position: Position,
        now_ns: int,
        rows: tuple[bytes, bytes],
        keys: tuple[bytes | None, bytes],
    ) -> Iterator[Event]:
        """Let consumers forget the old key and learn the new one, each knowing of the other (as Debezium does)."""
        key, old_key = keys
        id_ = event_id(self._name, self._epoch, position)
        moved: Headers = [(HEADER_NEW_KEY, key or b"")]
        yield self._event(plan, change.lsn, "d", old_key, (plan.old_row(change), b"null"), f"{id_}:d", moved, now_ns)
        yield Event(plan.topic, old_key, None, self._headers(f"{id_}:d") + moved, plan.title, "tombstone")
        came: Headers = [(HEADER_OLD_KEY, old_key)]
        yield self._event(plan, change.lsn, "c", key, (b"null", rows[1]), f"{id_}:c", came, now_ns)

    def _truncate(self, change: Truncate, position: Position, now_ns: int) -> Iterator[Event]:
        if plan := self._plan(change):
            id_ = event_id(self._name, self._epoch, position)
            yield self._event(plan, change.lsn, "t", None, (b"null", b"null"), id_, [], now_ns)

    def _plan(self, change: RowChange | Truncate) -> TablePlan | None:
        return self.tables.plan(change, self._open.xid if self._open else 0)

    def _event(
        self,
        plan: TablePlan,
        lsn: str,
        op: str,
        key: bytes | None,
        rows: tuple[bytes, bytes],
        id_: str,
        headers: Headers,
        now_ns: int,
    ) -> Event:
        at = parse_lsn(lsn)
        value = b'{"before":%b,"after":%b,"source":%b,"transaction":%b,"op":"%b",%b}' % (
            *rows,
            self._source(plan, at),
            self._order(plan.title, at),
            op.encode(),
            clock_json(now_ns),
        )
        return Event(plan.topic, key, value, self._headers(id_) + headers, plan.title, op)

    def _headers(self, id_: str) -> Headers:
        headers = [(HEADER_EVENT_ID, id_.encode()), (HEADER_SCHEMA, SCHEMA_VERSION)]
        if self._open and not self._open.notify:
            headers.append((HEADER_NOTIFY, b"0"))
        return headers

    def _source(self, plan: TablePlan, lsn: int) -> bytes:
        """Write `source`; what all events of a table in a transaction have in common is written once."""
        opened = self._open
        if opened is None:
            return self._frame(plan.source_tail, 0, self._last_commit_lsn, None, b"null") % (lsn, lsn)
        frame = opened.frames.get(plan.title)
        if frame is None:
            facts = (opened.commit_us, opened.previous_lsn, opened.xid, opened.origin)
            frame = opened.frames[plan.title] = self._frame(plan.source_tail, *facts)
        return frame % (lsn, lsn)

    def _frame(self, tail: bytes, micros: int, previous: int | None, xid: int | None, origin: bytes) -> bytes:
        return source_frame(
            self._name, self._database, tail, micros=micros, snapshot="false", previous=previous, xid=xid, origin=origin
        )

    def _order(self, title: str, lsn: int) -> bytes:
        """Count the event in its transaction; Debezium names a transaction by its id and its first event's LSN."""
        opened = self._open
        if opened is None:
            return b"null"
        if opened.first_lsn is None:
            opened.first_lsn = lsn
        opened.events += 1
        of_table = opened.events_of_table[title] = opened.events_of_table.get(title, 0) + 1
        return b'{"id":"%d:%d","total_order":%d,"data_collection_order":%d}' % (
            opened.xid,
            opened.first_lsn,
            opened.events,
            of_table,
        )

    def _message(self, change: Message, position: Position, now_ns: int) -> list[Event]:
        if change.prefix == OWN_PREFIX:
            self._read_own(change)
            return []
        inside = self._open if change.transactional else None
        lsn = parse_lsn(change.lsn)
        source = source_json(
            self._name,
            self._database,
            b'"schema":"","table":""',
            micros=inside.commit_us if inside else now_ns // 1000,
            snapshot="false",
            sequence=(inside.previous_lsn if inside else self._last_commit_lsn, lsn),
            xid=inside.xid if inside else None,
            origin=inside.origin if inside else b"null",
        )
        content = base64.b64encode(change.content_bytes).decode()
        value = b'{"op":"m","ts_ms":%d,"source":%b,"transaction":%b,"message":%b}' % (
            now_ns // 1_000_000,
            source,
            self._order("message", lsn) if inside else b"null",
            _json({"prefix": change.prefix, "content": content}),
        )
        id_ = event_id(self._name, self._epoch, position)
        key = _json({"prefix": change.prefix})
        return [Event(message_topic(self._name), key, value, self._headers(id_), "message", "m")]

    def _read_own(self, change: Message) -> None:
        """Obey `{"notify": false}` to the end of its transaction; any role may write messages, so nothing else."""
        try:
            said = msgspec.json.decode(change.content)
        except msgspec.MsgspecError:
            return
        if self._open and change.transactional and isinstance(said, dict) and said.get("notify") is False:
            self._open.notify = False
