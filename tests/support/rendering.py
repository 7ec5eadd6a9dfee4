"""Rows through both ways into an envelope, without Kafka: COPY's text and wal2json's lines, on a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import psycopg2
from psycopg2.extensions import connection, cursor
from pydantic import SecretStr

from cdc import catalog, rows, snapshot, wal2json
from cdc.rows import TablePlan
from cdc.runtime.fields import TableName, quoted
from cdc.runtime.sections import Source, SourceTable
from cdc.session import session_options
from cdc.skip import Skip
from tests.support.database import Database

Row = dict[str, Any]


class Renderer:
    """Inserts rows, and renders each as the snapshot and as the stream do."""

    def __init__(self, session: connection, slot: str) -> None:
        self._session = session
        self._slot = slot

    def plan(self, table: str, **said: Any) -> TablePlan:
        """Plan a table of schema public by its present shape."""
        name = TableName("public", table)
        relation = catalog.read_relation(self._session, name)
        assert relation
        configured = SourceTable(name=name, **said)
        source = Source(name="x", dsn=SecretStr("x"), hash_key=SecretStr("key"), tables=[configured])
        return rows.plan(source, configured, relation)

    def both(self, table: str, inserted: list[Row], **said: Any) -> Iterator[tuple[Row, Row]]:
        """Insert rows (columns to literals) and give what they become, by the snapshot and by the stream."""
        plan = self.plan(table, **said)
        with closing(self._session.cursor()) as execute:
            execute.execute(f"TRUNCATE {plan.name.sql()}")
            for row in inserted:
                _insert(execute, plan.name, row)
            copied: list[Row] = []
            keyless = replace(plan, key=())
            snapshot.read_rows(self._session, keyless, lambda row: copied.append(json.loads(row.after)), Skip())
            streamed = [json.loads(after) for after in self._after(execute, plan)]
        assert len(copied) == len(streamed) == len(inserted)
        yield from zip(copied, streamed, strict=True)

    def _after(self, execute: cursor, plan: TablePlan) -> Iterator[bytes]:
        """Render what was inserted since the last time."""
        options = [part for option in wal2json.OPTIONS.items() for part in option]
        places = ", ".join("%s" for _ in options)
        query = f"SELECT data FROM pg_logical_slot_get_changes(%s, NULL, NULL, {places})"  # noqa: S608  %s only
        execute.execute(query, [self._slot, *options])
        for (line,) in execute.fetchall():
            change = wal2json.decode(line.encode())
            if isinstance(change, wal2json.Insert):
                if not change.pk:  # a VACUUM of the table may make the plugin forget it: `shapes.may_hide_key`
                    change = msgspec.structs.replace(change, pk=[wal2json.KeyColumn(name) for name in plan.key])
                assert plan.shows(change)
                yield plan.rows(change)[1]


@contextmanager
def renderer(database: Database) -> Iterator[Renderer]:
    """Open a session that is pinned as the walsender's and the snapshot's are."""
    with closing(psycopg2.connect(database.dsn, options=session_options())) as session:
        session.autocommit = True
        with closing(session.cursor()) as execute:
            execute.execute("SELECT pg_create_logical_replication_slot(%s, 'wal2json', true)", (_slot(database),))
        yield Renderer(session, _slot(database))


def _slot(database: Database) -> str:
    return f"{database.name}_rendering"


def _insert(execute: cursor, table: TableName, row: Row) -> None:
    columns = ", ".join(map(quoted, row))
    values = ", ".join("%s" for _ in row)
    query = f"INSERT INTO {table.sql()} ({columns}) VALUES ({values})"  # noqa: S608  quoted identifiers
    execute.execute(query, list(row.values()))
