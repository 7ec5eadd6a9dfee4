"""Random stories of rows and DDL: what is told of a row is what a SELECT said at its moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import cursor
from pydantic import SecretStr

from cdc import wal2json
from cdc.catalog import Catalog
from cdc.contract.position import Position
from cdc.partitions import Partitions
from cdc.routing import Router
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Source, SourceTable
from cdc.session import session_options
from cdc.tables import CapturedTables
from tests.support.database import fresh
from tests.support.servers import PostgresServer

KEPT = "__debezium_unavailable_value"
USERS = TableName("public", "users")
#: Each adds, drops, renames or alters a column, whichever the number falls on; or writes a row.
STEPS = st.tuples(
    st.sampled_from(
        ["insert", "update", "update", "wide", "delete", "key", "add int", "add text", "add posint"]
        + ["drop", "rename", "retype", "identity"]
    ),
    st.integers(0, 1000),
)


class Story:
    """A table, what was done to it, and what a SELECT said of each row when it was written."""

    def __init__(self, execute: cursor) -> None:
        self._execute = execute
        self._names = 0
        self.expected: list[tuple[str, int, dict[str, Any] | None]] = []
        execute.execute("DROP TABLE IF EXISTS users; CREATE TABLE users (id int PRIMARY KEY, n int, body text)")
        execute.execute("ALTER TABLE users ALTER body SET STORAGE EXTERNAL")

    def columns(self) -> list[tuple[str, str]]:
        self._execute.execute(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
            " WHERE attrelid = 'users'::regclass AND attnum > 1 AND NOT attisdropped ORDER BY attnum"
        )
        return self._execute.fetchall()

    def step(self, what: str, number: int) -> None:
        getattr(self, "_" + what.split()[0])(what, number)

    def _insert(self, _what: str, number: int) -> None:
        self._row("c", "INSERT INTO users (id) VALUES (%s) ON CONFLICT DO NOTHING RETURNING *", (number,))

    def _update(self, _what: str, number: int) -> None:
        for name, type_ in self.columns():
            if type_ != "text" and number % 2:
                self._row("u", f"UPDATE users SET {name} = %s WHERE id = ({_ANY}) RETURNING *", (number, number))  # noqa: S608
                return

    def _wide(self, _what: str, number: int) -> None:
        for name, type_ in self.columns():
            if type_ == "text":
                statement = f"UPDATE users SET {name} = repeat('x', 3000) WHERE id = ({_ANY}) RETURNING *"  # noqa: S608
                self._row("u", statement, (number,))
                return

    def _key(self, _what: str, number: int) -> None:
        self._execute.execute(_ANY, (number,))
        if (found := self._execute.fetchone()) and number not in self._ids():
            self.expected.append(("d", found[0], None))
            self._row("c", "UPDATE users SET id = %s WHERE id = %s RETURNING *", (number, found[0]))

    def _delete(self, _what: str, number: int) -> None:
        self._execute.execute(f"DELETE FROM users WHERE id = ({_ANY}) RETURNING id", (number,))  # noqa: S608
        self.expected += [("d", id_, None) for (id_,) in self._execute.fetchall()]

    def _add(self, what: str, _number: int) -> None:
        self._names += 1
        default = " DEFAULT 7" if what != "add text" else ""
        self._execute.execute(f"ALTER TABLE users ADD c{self._names} {what[4:]}{default}")

    def _drop(self, _what: str, number: int) -> None:
        if columns := self.columns():
            self._execute.execute(f"ALTER TABLE users DROP {columns[number % len(columns)][0]}")

    def _rename(self, _what: str, number: int) -> None:
        if columns := self.columns():
            self._names += 1
            self._execute.execute(f"ALTER TABLE users RENAME {columns[number % len(columns)][0]} TO c{self._names}")

    def _retype(self, _what: str, _number: int) -> None:
        for name, type_ in self.columns():
            if type_ != "text":
                wanted = "bigint" if type_ == "integer" else "text"
                self._execute.execute(f"ALTER TABLE users ALTER {name} DROP DEFAULT, ALTER {name} TYPE {wanted}")
                return

    def _identity(self, _what: str, number: int) -> None:
        self._execute.execute(f"ALTER TABLE users REPLICA IDENTITY {('DEFAULT', 'FULL')[number % 2]}")

    def _ids(self) -> set[int]:
        self._execute.execute("SELECT id FROM users")
        return {id_ for (id_,) in self._execute.fetchall()}

    def _row(self, op: str, statement: str, parameters: tuple[Any, ...]) -> None:
        self._execute.execute(statement, parameters)
        names = [column.name for column in self._execute.description or ()]
        for row in self._execute.fetchall():
            after = dict(zip(names, row, strict=True))
            self.expected.append((op, after["id"], after))


_ANY = "SELECT id FROM users ORDER BY abs(id - %s), id LIMIT 1"


class Told:
    """A reader of the slot, without Kafka."""

    def __init__(self, session: Any, slot: str) -> None:
        source = Source(name="shop", dsn=SecretStr("x"), tables=[SourceTable(name=USERS)])
        catalog = Catalog(session)
        tables = CapturedTables(source, catalog, Partitions(catalog, [], [], lambda _: None), [], set(), wide=False)
        self._router = Router("shop", "db", 1, tables)
        self._session = session
        self._slot = slot
        self.events: list[tuple[str, int, dict[str, Any] | None]] = []

    def read(self) -> None:
        options = [part for option in wal2json.OPTIONS.items() for part in option]
        query = f"SELECT data FROM pg_logical_slot_get_changes(%s, NULL, NULL, {', '.join('%s' for _ in options)})"  # noqa: S608
        with closing(self._session.cursor()) as execute:
            execute.execute(query, [self._slot, *options])
            lines = execute.fetchall()
        for place, (line,) in enumerate(lines):
            change = wal2json.decode(line.encode())
            if isinstance(change, wal2json.Begin):
                self._router.begin(change, 1)
            for event in self._router.events(change, Position(1, place), 1):
                if event.value is not None:
                    assert event.key
                    self.events.append((event.op, json.loads(event.key)["id"], json.loads(event.value)["after"]))


@pytest.fixture(scope="module")
def sessions(postgres: PostgresServer) -> Iterator[tuple[Any, Any, str]]:
    with (
        fresh(postgres, "tmoments") as database,
        closing(psycopg2.connect(database.dsn, options=session_options())) as reader,
        closing(database.connect()) as writer,
    ):
        reader.autocommit = True
        with closing(writer.cursor()) as execute:
            execute.execute("CREATE DOMAIN posint AS int")
            execute.execute("SELECT pg_create_logical_replication_slot('tmoments', 'wal2json')")
        yield reader, writer, "tmoments"


def differences(told: dict[str, Any] | None, expected: dict[str, Any] | None, behind: bool) -> set[str]:
    """Name the columns that differ; what is not in the WAL says so, and behind its time under other names too."""
    if told is None or expected is None:
        return set() if told is expected else {"all"}
    wide = {name for name, value in expected.items() if isinstance(value, str) and len(value) > 2000}
    names = {name for name in told.keys() | expected.keys() if told.get(name, ...) != expected.get(name, ...)}
    kept = {name for name in names if told.get(name) == KEPT}
    if len(wide & names) <= len(kept) and behind:
        return names - kept - wide
    return names - (kept & wide)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEPS, min_size=5, max_size=30), reads=st.sampled_from(["at once", "now and then", "at the end"]))
def test_rows_are_told_as_a_select_saw_them(
    sessions: tuple[Any, Any, str], steps: list[tuple[str, int]], reads: str
) -> None:
    reader, writer, slot = sessions
    with closing(writer.cursor()) as execute:
        execute.execute("SELECT count(*) FROM pg_logical_slot_get_changes(%s, NULL, NULL)", (slot,))
        story = Story(execute)
        told = Told(reader, slot)
        for place, step in enumerate(steps):
            story.step(*step)
            if reads == "at once" or (reads == "now and then" and place % 4 == 0):
                told.read()
        told.read()
    assert [event[:2] for event in told.events] == [event[:2] for event in story.expected]
    for (op, key, after), (_, _, expected) in zip(told.events, story.expected, strict=True):
        assert not differences(after, expected, behind=reads != "at once"), (op, key, after, expected)
