"""What preflight says of the database that is read: the server, decoding, the slot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2

from cdc import slot, start
from cdc.preflight import filters, tables
from cdc.preflight.ask import one
from cdc.runtime import postgres
from cdc.runtime.findings import Finding
from cdc.runtime.settings import Settings


def source(settings: Settings) -> Iterator[Finding]:
    """Look at the database that is read, as the role of source.dsn."""
    with closing(start.connect(settings)) as connection, postgres.errors():
        yield Finding("ok", f"PostgreSQL {one(connection, 'SHOW server_version')} answers and lets the role in")
        yield from _server(connection)
        yield from _decoding(connection, settings)
        yield from _slot(connection, settings)
        yield from filters.unknown_origins(connection, settings)
        for table in settings.source.tables:
            yield from tables.look(connection, settings, table)


def _server(connection: postgres.Connection) -> Iterator[Finding]:
    if (level := one(connection, "SHOW wal_level")) == "logical":
        yield Finding("ok", "wal_level is logical")
    else:
        remedy = "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL"
        yield Finding("fault", f"wal_level is {level}", "the WAL holds no rows to decode", remedy)
    if (encoding := one(connection, "SHOW server_encoding")) != "UTF8":
        yield Finding(
            "fault", f"the database is {encoding}, not UTF8", "wal2json writes its bytes into JSON as they are"
        )
    if one(connection, "SHOW max_slot_wal_keep_size") == "-1":
        why = "a reader that is down for long lets the WAL fill the disk"
        remedy = "ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'; SELECT pg_reload_conf(); and watch the lag"
        yield Finding("warning", "the WAL that a slot holds back has no limit", why, remedy)


def _decoding(connection: postgres.Connection, settings: Settings) -> Iterator[Finding]:
    """Try it: a temporary slot needs the right, the plugin, its permission and a free place, and leaves nothing."""
    why = "capture reads the WAL through a slot"
    role = one(connection, "SELECT current_user")
    if not one(connection, "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"):
        remedy = f'ALTER ROLE "{role}" REPLICATION;'
        yield Finding("fault", f"the role {role} may not read a slot", why, remedy)
        return
    try:
        one(connection, "SELECT pg_create_logical_replication_slot('pgherald_preflight', 'wal2json', true)")
        one(connection, "SELECT pg_drop_replication_slot('pgherald_preflight')")
    except psycopg2.Error as exc:
        error = slot.cannot_create(exc)
        yield Finding("fault", error.message, why, error.hint, fix=_plugin_fix(connection, error.hint))
    else:
        yield Finding("ok", "wal2json decodes for this role")


def _plugin_fix(connection: postgres.Connection, remedy: str) -> Any:
    if postgres.ALLOW_PLUGIN not in remedy or not one(connection, "SELECT usesuper FROM pg_user WHERE usename = user"):
        return None

    def fix() -> None:
        for statement in postgres.ALLOW_PLUGIN.rstrip(";").split("; "):
            one(connection, statement, fetch=statement.startswith("SELECT"))

    return fix


def _slot(connection: postgres.Connection, settings: Settings) -> Iterator[Finding]:
    name = settings.source.slot
    status = one(connection, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", (name,))
    if status == "lost":
        yield Finding("fault", f"the slot {name} is lost", "changes are missing from Kafka", "pgherald slot recover")
    elif status == "unreserved":
        why = "the next checkpoint may remove WAL that it needs"
        yield Finding("warning", f"the slot {name} is about to be lost", why, "start `pgherald capture` at once")
    else:
        yield Finding("ok", f"the slot {name} is {'there' if status else 'not there yet: the first start makes it'}")
