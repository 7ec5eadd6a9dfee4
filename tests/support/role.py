"""The role of deploy/sql/role.sql: what runs under test runs as it, with nothing more."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from cdc.runtime.fields import parse_table, quoted
from tests.support.database import Database

ROLE = "pgherald"
_PASSWORD = secrets.token_hex(8)
_SCRIPT = Path("deploy/sql/role.sql")


def dsn(database: Database) -> str:
    """Give the role's DSN of a database."""
    server = database.server
    return f"host={server.host} port={server.port} user={ROLE} password={_PASSWORD} dbname={database.name}"


def grant(database: Database, tables: Iterable[str]) -> None:
    """Run role.sql, for those of the tables that are there; a role is the whole server's, so it may be there too.

    A standby has what its primary has.
    """
    if database.execute("SELECT pg_is_in_recovery()") == [(True,)]:
        return
    lines = [line for line in _SCRIPT.read_text().splitlines() if not line.startswith("--")]
    of_table = [line for line in lines if "public" in line]
    of_server = [line for line in lines if "CREATE ROLE" in line]
    of_database = [line for line in lines if line and line not in (*of_table, *of_server)]
    assert of_table
    assert of_server
    if not database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,)):
        database.execute("".join(of_server))
    database.execute("\n".join([*of_database, f"ALTER ROLE {ROLE} PASSWORD '{_PASSWORD}'"]))
    for table in (parse_table(name) for name in tables):
        if database.execute("SELECT to_regclass(%s) IS NOT NULL", (table.sql(),)) == [(True,)]:
            schema = quoted(table.schema)
            grants = (
                "\n".join(of_table).replace('public."User"', table.sql()).replace("SCHEMA public", f"SCHEMA {schema}")
            )
            database.execute(grants)
