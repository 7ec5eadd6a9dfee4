"""Asks a running reader for something, by a row in the source database: whoever may insert there may ask."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from cdc import snapshot, start
from cdc.command import TABLE, check_condition
from cdc.runtime import postgres
from cdc.runtime.errors import AccessDenied, ConfigInvalid, PermanentError
from cdc.runtime.fields import TableName, parse_table
from cdc.runtime.postgres import Connection
from cdc.runtime.settings import Settings

#: Beside the package in a checkout, in an editable install and in the image.
SCRIPT = Path(__file__).parents[1] / "deploy" / "sql" / "command.sql"
_INSERT = """
    INSERT INTO pgherald.command (slot, action, schema_name, table_name, condition)
    VALUES (%s, %s, %s, %s, nullif(%s, ''))
"""


def ask(settings: Settings, what: str, where: str) -> None:
    """Ask for a table's rows, or for a pause or its end.

    Raises ConfigInvalid for a table that is not captured and for a condition that is none, AccessDenied with the
    statement where the role may not ask.
    """
    name = None if what in ("pause", "resume") else _captured(settings, what)
    try:
        check_condition(where)
    except PermanentError as exc:
        raise ConfigInvalid(f"--where: {exc.message}", hint=exc.hint) from exc
    with closing(start.connect(settings)) as connection:
        if name and where:
            snapshot.try_condition(connection, name, where)
        _provide_table(connection)
        _insert(connection, settings.source.slot, what if name is None else "snapshot", name, where)


def _captured(settings: Settings, text: str) -> TableName:
    try:
        name = parse_table(text)
    except ValueError as exc:
        raise ConfigInvalid(f"{text} is no table: {exc}") from exc
    tables = {table.name for table in settings.source.tables}
    if name not in tables:
        raise ConfigInvalid(f"{name.sql()} is not captured", hint=f"Captured are {', '.join(n.sql() for n in tables)}")
    return name


def _provide_table(connection: Connection) -> None:
    with postgres.errors(), connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_tables WHERE (schemaname, tablename) = (%s, %s)", TABLE)
        if cursor.rowcount:
            return
    try:
        with postgres.errors(), connection.cursor() as cursor:
            cursor.execute(SCRIPT.read_text())
    except AccessDenied as exc:
        hint = f"As a superuser, in this database: psql -f {SCRIPT}; then grant INSERT on it to whoever may ask"
        raise AccessDenied("there is no table pgherald.command, and this role may not make it", hint=hint) from exc


def _insert(connection: Connection, slot: str, action: str, name: TableName | None, where: str) -> None:
    try:
        with postgres.errors(), connection.cursor() as cursor:
            cursor.execute(_INSERT, (slot, action, *(name or (None, None)), where))
    except AccessDenied as exc:
        hint = (
            "Ask as a role that may (PGHERALD_SOURCE__DSN), or as the table's owner: "
            "GRANT USAGE ON SCHEMA pgherald TO the role; GRANT INSERT ON pgherald.command TO the role;"
        )
        raise AccessDenied("this role may not insert into pgherald.command", hint=hint) from exc
