"""A database of a test's own."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection

from deploy.local.net import until
from tests.support.servers import PostgresServer


@dataclass(frozen=True)
class Database:
    """An empty database; `dsn` is the superuser's."""

    name: str
    server: PostgresServer

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    def connect(self) -> connection:
        """Open a session in autocommit; closing() it is the caller's."""
        opened = psycopg2.connect(self.dsn)
        opened.autocommit = True
        return opened

    def execute(
        self, statement: str, parameters: tuple[Any, ...] | dict[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run it in a transaction of its own and return its rows, none for a statement that has none."""
        with closing(self.connect()) as session, session.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def waits_for(self, transaction: int) -> bool:
        """Whether a session waits for the end of this transaction, as one that makes a slot does."""
        waiting = "SELECT pid FROM pg_locks WHERE NOT granted AND transactionid::text = %s::text"
        return bool(self.execute(waiting, (transaction,)))


@contextmanager
def fresh(server: PostgresServer, name: str, options: str = "") -> Iterator[Database]:
    """Make the database; drop it after the test with its slots, whoever still holds them."""
    maintenance = Database("postgres", server)
    maintenance.execute(_composed("CREATE DATABASE {} " + options, name))
    try:
        yield Database(name, server)
    finally:
        server.unpause()
        server.start()
        until(lambda: _drop_slots(maintenance, name), 20, f"slots of {name} to be dropped")
        maintenance.execute(_composed("DROP DATABASE {} WITH (FORCE)", name))


def _composed(statement: str, name: str) -> Any:
    return sql.SQL(statement).format(sql.Identifier(name))


def _drop_slots(maintenance: Database, name: str) -> bool:
    """Return whether none is left. A slot is free only a moment after its reader was told to end."""
    of_database = "FROM pg_replication_slots WHERE database = %s"
    maintenance.execute(f"SELECT pg_terminate_backend(active_pid) {of_database} AND active", (name,))
    try:
        maintenance.execute(f"SELECT pg_drop_replication_slot(slot_name) {of_database} AND NOT active", (name,))
    except psycopg2.errors.ObjectInUse:
        return False
    return not maintenance.execute(f"SELECT 1 {of_database}", (name,))
