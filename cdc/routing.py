"""From a change to the records that it becomes: topic, key, envelope, headers, event id. Pure.

The envelope is put together from bytes: column names, types and the constant parts of `source` are rendered once a
table, values only where wal2json's JSON is not already what Debezium would write.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final, Protocol

import msgspec

from cdc.contract.envelope import HEADER_NEW_KEY, HEADER_OLD_KEY, HEADER_OLD_ROW
from cdc.contract.event import Event, Headers
from cdc.contract.lsn import parse_lsn
from cdc.contract.position import Position, event_id
from cdc.contract.topics import message_topic
from cdc.cutting import ACTION_AT, COLUMNS, INSERT, UPDATE, Cutter
from cdc.rows import TablePlan
from cdc.runtime.errors import ChangeUndecodable
from cdc.source import clock_json, source_json, source_template
from cdc.template import Template
from cdc.transaction import ORDER, Transaction, headers_of
from cdc.values import FAULTS
from cdc.wal2json import Begin, Change, Delete, Insert, Message, RowChange, Truncate, Update

_json = msgspec.json.encode
#: The prefix of messages that are for pgherald: read, never published.
OWN_PREFIX = "pgherald"
_OPS: Final = {INSERT: "c", UPDATE: "u"}
#: What begins a line's table. The shortest that stands before it: an action, a transaction's id, a timestamp, an LSN.
_TABLE: Final = b',"schema":'
_TABLE_AT: Final = 60


class Tables(Protocol):
    """Knows how the lines of each table are written."""

    #: By tables as `table_of` writes them: the plan of every line that shows the whole shape of one.
    of_lines: dict[bytes, TablePlan]

    def plan(self, change: RowChange | Truncate, xid: int) -> TablePlan | None:
        """Find the plan of a line of a transaction; None where it is not to be published."""

    def look(self) -> None:
        """Now and then, see what became of the tables."""


class Router:
    """Turns the lines of the slot, in order, into records. Keeps the open transaction, no more.

    Every line must pass through `begin`, `events` or `quick`, and `end`, also those already published: order numbers
    and flags depend on them.
    """

    def __init__(
        self,
        name: str,
        database: str,
        epoch: int,
        tables: Tables,
        origin_name: Callable[[int], str | None] = lambda _id: None,
        last_commit_lsn: int | None = None,
    ) -> None:
        self._name = name
        self._database = database
        self._epoch = epoch
        self._ids = f"{name}:{epoch}:".encode()
        self.tables = tables
        self._origin_name = cache(origin_name)
        self._open: Transaction | None = None
        self._last_commit_lsn = last_commit_lsn
        #: Templates: of `source` and `transaction` by table, and of whole values by how lines are cut.
        self._places: dict[bytes, Template] = {}
        self._wholes: dict[Cutter, Template] = {}
        self._now_ns, self._clock = 0, b""

    def events(self, change: Change, position: Position, now_ns: int) -> list[Event]:
        """Give the records of one line: none for messages of our own, three for a key change.

        Raises ChangeUndecodable when a value can't be written.
        """
        if isinstance(change, RowChange):
            return self._row(change, position, now_ns)
        if isinstance(change, Truncate):
            return list(self._truncate(change, position, now_ns))
        if isinstance(change, Message):
            return self._message(change, position, now_ns)
        return []

    def begin(self, change: Begin, lsn: int) -> int:
        """Note the beginning of the transaction that ends at this LSN; give its commit's time, in microseconds."""
        origin = _json(self._origin_name(change.origin)) if change.origin else b"null"
        self._open = Transaction(change, origin, self._last_commit_lsn, b"%b%016x:" % (self._ids, lsn))
        return self._open.commit_us

    def end(self, lsn: int) -> None:
        """Note the end of the open transaction, which is its name, or of a message that stood alone."""
        self._last_commit_lsn = lsn
        self._open = None

    def quick(self, line: bytes, lsn: int, index: int, now_ns: int) -> Event | None:
        """Give the event of an insert or update that can be cut out of its line; None: it is to be decoded.

        All that is the same for many rows is rendered before, so that one row is one formatting. `lsn` is the row's.
        """
        action, opened = line[ACTION_AT : ACTION_AT + 1], self._open
        op = _OPS.get(action)
        if op is None or opened is None:
            return None
        at = line.find(COLUMNS)
        plan = self.tables.of_lines.get(line[line.find(_TABLE, _TABLE_AT) : at])
        if plan is None or (cutter := plan.cutter) is None:
            return None
        cut = cutter.cut(action, line, at + len(COLUMNS))
        if cut is None:
            return None
        key, before, row = cut
        whole = self._wholes.get(cutter) or self._whole(cutter, plan)
        value = whole.fill([before, *row, *opened.count(plan.title, lsn), op.encode(), self._clock_of(now_ns)])
        return Event(plan.topic, key, value, opened.headers(index), plan.title, op)

    def _whole(self, cutter: Cutter, plan: TablePlan) -> Template:
        text = b'{"before":%%b,"after":%b,%b,"op":"%%b",%%b}' % (cutter.after, self._place(plan.source_tail))
        whole = self._wholes[cutter] = Template(text)
        return whole

    def _place(self, table: bytes) -> bytes:
        """Write the template of where an event comes from, which `Transaction.count` fills."""
        return b'"source":%b,"transaction":%b' % (source_template(self._name, self._database, table, "false"), ORDER)

    def _placed(self, table: bytes, counted: list[bytes]) -> bytes:
        place = self._places.get(table)
        if place is None:
            place = self._places[table] = Template(self._place(table))
        return place.fill(counted)

    def _clock_of(self, now_ns: int) -> bytes:
        """Render the time; it is told once for many lines."""
        if now_ns != self._now_ns:
            self._now_ns, self._clock = now_ns, clock_json(now_ns)
        return self._clock

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
        whole: Headers = [(HEADER_OLD_ROW, b"1")] if op == "d" and plan.is_full(change) else []
        yield self._event(plan, change.lsn, op, key, (before, after), id_, whole, now_ns)
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
        if self._open is None:
            raise ChangeUndecodable("a change outside of a transaction")
        place = self._placed(plan.source_tail, self._open.count(plan.title, parse_lsn(lsn)))
        value = b'{"before":%b,"after":%b,%b,"op":"%b",%b}' % (*rows, place, op.encode(), self._clock_of(now_ns))
        return Event(plan.topic, key, value, self._headers(id_) + headers, plan.title, op)

    def _headers(self, id_: str) -> Headers:
        return headers_of(id_.encode(), notify=self._open is None or self._open.notify)

    def _message(self, change: Message, position: Position, now_ns: int) -> list[Event]:
        if change.prefix == OWN_PREFIX:
            self._read_own(change)
            return []
        content = base64.b64encode(change.content_bytes).decode()
        value = b'{"op":"m","ts_ms":%d,%b,"message":%b}' % (
            now_ns // 1_000_000,
            self._place_of(change, now_ns),
            _json({"prefix": change.prefix, "content": content}),
        )
        id_ = event_id(self._name, self._epoch, position)
        key = _json({"prefix": change.prefix})
        return [Event(message_topic(self._name), key, value, self._headers(id_), "message", "m")]

    def _place_of(self, change: Message, now_ns: int) -> bytes:
        table, lsn = b'"schema":"","table":""', parse_lsn(change.lsn)
        if self._open and change.transactional:
            return self._placed(table, self._open.count("message", lsn))
        source = source_json(
            self._name,
            self._database,
            table,
            micros=now_ns // 1000,
            snapshot="false",
            sequence=(self._last_commit_lsn, lsn),
            xid=None,
        )
        return b'"source":%b,"transaction":null' % source

    def _read_own(self, change: Message) -> None:
        """Obey `{"notify": false}` to the end of its transaction; any role may write messages, so nothing else."""
        try:
            said = msgspec.json.decode(change.content)
        except msgspec.MsgspecError:
            return
        if self._open and change.transactional and isinstance(said, dict) and said.get("notify") is False:
            self._open.notify = False
