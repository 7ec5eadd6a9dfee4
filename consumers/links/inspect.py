"""What the pages behind links add to `pgherald preflight`: whether the database takes what a verify link does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from cdc.runtime import postgres
from cdc.runtime.errors import ServiceError
from cdc.runtime.fields import TableName, quoted
from cdc.runtime.findings import Finding
from cdc.runtime.sections_mail import Links
from cdc.runtime.settings import Settings
from consumers.links import uses

#: The key's columns, and whether a JSON key has the value as a number.
_KEY = """
    SELECT attname, atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
    FROM pg_catalog.pg_index
    JOIN pg_catalog.pg_class ON pg_class.oid = indrelid
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
    WHERE indisprimary AND nspname = %s AND relname = %s
"""
#: What EXPLAIN takes. A CALL is only known by doing it.
_EXPLAINED = ("select", "insert", "update", "delete", "merge", "with", "values")
_NO_RIGHT = "42501"
_WHY = "no verify link would work"


def links(settings: Settings) -> Iterator[Finding]:
    """Look at the database that verify links change."""
    if settings.links is None:
        return
    table = uses.table(settings, settings.links)
    with closing(uses.connect(settings, settings.links)) as database:
        with postgres.errors(), closing(database.cursor()) as cursor:
            cursor.execute(_KEY, table)
            key = {column: 0 if is_number else None for column, is_number in cursor.fetchall()}
        if not key:
            what = f"{table.sql()} is not there, or has no primary key"
            yield Finding("fault", what, _WHY, "correct links.table or links.dsn")
            return
        yield from _explained(database, settings, settings.links, table, key)


def _explained(
    database: Any, settings: Settings, given: Links, table: TableName, key: dict[str, Any]
) -> Iterator[Finding]:
    same = " AND ".join(f"{quoted(column).replace('%', '%%')} = %({column})s" for column in key)
    look = f"SELECT {quoted(settings.user.email)} FROM {table.sql()}".replace("%", "%%")  # noqa: S608  quoted
    statements = [("the look at the user", f"{look} WHERE {same}")]
    if given.verify_sql.lstrip().lower().startswith(_EXPLAINED):
        statements.append(("links.verify_sql", uses.bound(given.verify_sql, key)))
    for what, statement in statements:
        try:
            # Planned and checked for rights, not done; and rolled back.
            with postgres.errors(), closing(database.cursor()) as cursor:
                cursor.execute(f"EXPLAIN {statement}", uses.parameters(key))
        except ServiceError as exc:
            why = str(exc.__cause__).splitlines()[0]
            remedy = "correct it, or links.dsn, links.table, user.email"
            if exc.fields.get("sqlstate") == _NO_RIGHT:
                remedy = f"GRANT what it needs to the role of links.dsn, e.g. GRANT SELECT, UPDATE ON {table.sql()}"
            yield Finding("fault", f"{what} does not work: {why}", _WHY, remedy)
        else:
            yield Finding("ok", f"{what} works with a key of {', '.join(key)}")
        database.rollback()
