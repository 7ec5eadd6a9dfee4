"""Who writes while the reader is being killed: transactions of every kind on two tables, and DDL beside them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2

from tests.support.database import Database

#: One with the default replica identity, one that logs the whole old row. `wide` is TOASTed, uncompressed.
TABLES = ("people", "members")
SCHEMA = (
    "".join(
        f"CREATE TABLE {table} (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, email text, wide text, password text);"
        f"ALTER TABLE {table} ALTER wide SET STORAGE EXTERNAL;"
        for table in TABLES
    )
    + "ALTER TABLE members REPLICA IDENTITY FULL"
)
_WIDE = "(SELECT string_agg(md5(n::text || %s::text), '') FROM generate_series(1, 90) n)"

Execute = Callable[..., Any]


class Session(threading.Thread):
    """Does one thing after the other in a session of its own; a server that is killed ends what was under way."""

    def __init__(self, database: Database, seed: str) -> None:
        super().__init__(name=seed, daemon=True)
        self.ended = threading.Event()
        self.transactions = 0
        self._database = database
        self._chance = random.Random(seed)

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                with closing(self._database.connect()) as session, session.cursor() as cursor:
                    cursor.execute("SET lock_timeout = '500ms'")
                    while not self.ended.wait(self._pause_s()):
                        self._turn(cursor.execute)
            except psycopg2.Error:
                # a server that goes away, a deadlock, a lock that another holds: lost or not, the auditor's slot knows
                self.ended.wait(0.05)

    def finish(self) -> None:
        self.ended.set()
        self.join()

    def _pause_s(self) -> float:
        raise NotImplementedError

    def _turn(self, execute: Execute) -> None:
        raise NotImplementedError


class Writer(Session):
    """Writes rows of its own range of ids: short, long and bulk transactions, savepoints, rollbacks."""

    def __init__(self, database: Database, seed: int, number: int) -> None:
        super().__init__(database, f"{seed}:writer:{number}")
        self._first = self._next = number * 1_000_000_000 + 1

    def _pause_s(self) -> float:
        return 0.005

    def _turn(self, execute: Execute) -> None:
        kinds = (self._short, self._long, self._bulk, self._with_savepoints)
        execute("BEGIN")
        self._chance.choices(kinds, (80, 4, 3, 13))[0](execute)
        execute("ROLLBACK" if self._chance.random() < 0.1 else "COMMIT")
        self.transactions += 1

    def _short(self, execute: Execute) -> None:
        for _ in range(self._chance.choice((1, 1, 1, 2, 5))):
            self._change(execute)

    def _long(self, execute: Execute) -> None:
        """Stay open while many others commit: its rows come behind theirs, with older LSNs."""
        for _ in range(self._chance.randint(10, 30)):
            self._change(execute)
            self.ended.wait(0.03)

    def _bulk(self, execute: Execute) -> None:
        table, count = self._chance.choice(TABLES), self._chance.randint(100, 800)
        first, self._next = self._next, self._next + count
        execute(f"INSERT INTO {table} (id, email) SELECT i, 'bulk' FROM generate_series(%s, %s) i", (first, self._next))
        self._next += 1
        if self._chance.random() < 0.5:
            execute(f"UPDATE {table} SET n = n + 1 WHERE id BETWEEN %s AND %s", (first, first + count // 2))
        if self._chance.random() < 0.5:
            execute(f"DELETE FROM {table} WHERE id BETWEEN %s AND %s", (first, first + count // 3))

    def _with_savepoints(self, execute: Execute) -> None:
        self._change(execute)
        for _ in range(self._chance.randint(1, 4)):
            execute("SAVEPOINT here")
            self._short(execute)
            execute(self._chance.choice(("ROLLBACK TO here", "RELEASE here")))

    def _change(self, execute: Execute) -> None:
        """Insert, update with and without touching the wide value, change a key, delete."""
        table, id_ = self._chance.choice(TABLES), self._some_id()
        kind = self._chance.random()
        if kind < 0.45:
            self._insert(execute, table)
        elif kind < 0.70:
            execute(f"UPDATE {table} SET n = n + 1, email = %s WHERE id = %s", (f"{id_}@example.org", id_))
        elif kind < 0.80:
            execute(f"UPDATE {table} SET n = n + 1, wide = {_WIDE} WHERE id = %s", (self._chance.random(), id_))
        elif kind < 0.88:
            execute(f"UPDATE {table} SET id = -id, n = n + 1 WHERE id = %s", (id_,))
        else:
            execute(f"DELETE FROM {table} WHERE id = %s", (id_,))

    def _insert(self, execute: Execute, table: str) -> None:
        wide = _WIDE if self._chance.random() < 0.3 else "nullif(%s::text, %s::text)"
        seeds = (self._next,) if wide is _WIDE else (self._next, self._next)
        email = None if self._chance.random() < 0.1 else f"{self._next}@example.org"
        execute(
            f"INSERT INTO {table} (id, email, wide, password) VALUES (%s, %s, {wide}, 'hunter2')",
            (self._next, email, *seeds),
        )
        self._next += 1

    def _some_id(self) -> int:
        """Pick one of the newest rows of ours, most of the time; what is gone changes nothing."""
        id_ = self._chance.randint(max(self._first, self._next - 300), self._next)
        return -id_ if self._chance.random() < 0.1 else id_


class Administrator(Session):
    """Adds and drops columns, empties a table, writes messages outside of transactions.

    The columns are short: of a wide one that an update's line lacks, nobody can tell whether it was there.
    """

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__(database, f"{seed}:administrator")

    def _pause_s(self) -> float:
        return self._chance.uniform(0.3, 1.5)

    def _turn(self, execute: Execute) -> None:
        table = self._chance.choice(TABLES)
        kinds = (
            f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS points int DEFAULT 7",
            f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS ref uuid DEFAULT '6ba7b810-9dad-11d1-80b4-00c04fd430c8'",
            f"ALTER TABLE {table} DROP COLUMN IF EXISTS points",
            f"ALTER TABLE {table} DROP COLUMN IF EXISTS ref",
            f"TRUNCATE {table}",
            "SELECT pg_logical_emit_message(false, 'pgherald', '{}')",
        )
        execute(self._chance.choices(kinds, (3, 3, 2, 2, 1, 4))[0])
        self.transactions += 1
