"""The rows that are there already: a consistent snapshot, published as `r` before the stream goes on behind it.

Values come by COPY in text form: the same output functions as in the WAL, so that both render alike.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from cdc.contract.envelope import HEADER_EVENT_ID, HEADER_SCHEMA, SCHEMA_VERSION
from cdc.contract.event import Event
from cdc.contract.position import snapshot_event_id
from cdc.routing import clock_json, source_json
from cdc.rows import TablePlan
from cdc.runtime.errors import ChangeUndecodable
from cdc.runtime.fields import quoted
from cdc.runtime.postgres import Connection, errors
from cdc.wal2json import fingerprint

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Origin:
    """What every row of one snapshot has in common."""

    name: str
    database: str
    epoch: int
    lsn: int
    xid: int
    taken_us: int


def fields_of(line: str) -> list[str | None]:
    """Split a line of COPY's text format; None is NULL. Source: PostgreSQL's COPY, "Text Format"."""
    return [None if field == r"\N" else _unescape(field) for field in line.split("\t")]


def _unescape(field: str) -> str:
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), field) if "\\" in field else field


def begin(connection: Connection, exported: str | None) -> int:
    """Open the snapshot's transaction, that of the new slot where one is given; give the next transaction id."""
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if exported:
            cursor.execute("SET TRANSACTION SNAPSHOT %s", (exported,))
        cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def read_table(connection: Connection, plan: TablePlan, on_row: Callable[[list[str | None]], None]) -> None:
    """Read every row of a table, in no order, one by one in flat memory."""
    columns = ", ".join(quoted(name) for name in plan.written())
    with errors(), closing(connection.cursor()) as cursor:
        query = f"COPY (SELECT {columns} FROM {plan.from_sql}) TO STDOUT"  # noqa: S608  quoted identifiers
        cursor.copy_expert(query, _Lines(on_row, plan.title))


class _Lines:
    """The file that COPY writes to: cuts its blocks into rows."""

    def __init__(self, on_row: Callable[[list[str | None]], None], table: str = "") -> None:
        self._on_row = on_row
        self._table = table
        self._rest = b""

    def write(self, block: bytes) -> int:
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            self._on_row(fields_of(self._decoded(line)))
        return len(block)

    def _decoded(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:  # a database that is not UTF8: JSON can't hold it
            message = f"a row of {self._table} is not UTF8"
            raise ChangeUndecodable(message, table=self._table, **fingerprint(line)) from None


class RowEvents:
    """Turns the rows of the tables into events, one row late: the last ones are marked, as Debezium marks them."""

    def __init__(self, origin: Origin, publish: Callable[[Event], None]) -> None:
        self._origin = origin
        self._publish = publish
        self._waiting: tuple[TablePlan, list[str | None], str] | None = None
        self.rows = 0

    def add(self, plan: TablePlan, row: list[str | None]) -> None:
        """Take a row, publish the one before it."""
        first_of_table = self._waiting is None or self._waiting[0] is not plan
        marker = "first" if self.rows == 0 else "first_in_data_collection" if first_of_table else "true"
        if self._waiting is not None:
            before, waiting_row, waiting_marker = self._waiting
            ends = first_of_table and waiting_marker != "first"
            self._send(before, waiting_row, "last_in_data_collection" if ends else waiting_marker)
        self._waiting = (plan, row, marker)
        self.rows += 1

    def end(self) -> None:
        """Publish the last row."""
        if self._waiting is not None:
            plan, row, _ = self._waiting
            self._send(plan, row, "last")
            self._waiting = None

    def _send(self, plan: TablePlan, row: list[str | None], marker: str) -> None:
        origin = self._origin
        key, after = plan.snapshot_row(row)
        source = source_json(
            origin.name,
            origin.database,
            plan.source_tail,
            micros=origin.taken_us,
            snapshot=marker,
            sequence=(None, origin.lsn),
            xid=origin.xid,
        )
        clock = clock_json(time.time_ns())
        value = b'{"before":null,"after":%b,"source":%b,"transaction":null,"op":"r",%b}' % (after, source, clock)
        id_ = snapshot_event_id(origin.name, origin.epoch, origin.lsn, plan.title, key or after)
        headers = [(HEADER_EVENT_ID, id_.encode()), (HEADER_SCHEMA, SCHEMA_VERSION)]
        self._publish(Event(plan.topic, key, value, headers, plan.title, "r"))
