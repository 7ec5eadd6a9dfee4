"""What preflight says of the database that is read: how one gets in, the server, decoding, the slot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2

from cdc import measure, refusals, slot, start
from cdc.preflight import asking, filters, server, tables
from cdc.preflight.ask import one, statements
from cdc.preflight.managed import Server
from cdc.runtime import postgres
from cdc.runtime.errors import ServiceError
from cdc.runtime.findings import Finding
from cdc.runtime.settings import Settings

_MAY_REPLICATE = """
    SELECT rolreplication OR rolsuper
        OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'rds_replication' AND pg_has_role(r.oid, 'MEMBER'))
    FROM pg_roles WHERE rolname = current_user
"""


def source(settings: Settings) -> Iterator[Finding]:
    """Look at the database that is read, as the role of source.dsn."""
    with closing(start.connect(settings)) as connection, postgres.errors():
        yield Finding("ok", f"PostgreSQL {one(connection, 'SHOW server_version')} answers and lets the role in")
        if unfit := _not_a_primary(connection):
            yield unfit
            return
        found, there = _server(connection), _slot_is_there(connection, settings)
        slots = one(connection, "SELECT count(*) FROM pg_replication_slots")
        walsenders = one(connection, "SELECT count(*) FROM pg_stat_replication")
        yield from server.look(found, slots=slots, walsenders=walsenders, slot_exists=there)
        yield from _decoding(connection, settings, found)
        yield from _slot(connection, settings)
        yield asking.look(connection)
        yield from filters.unknown_origins(connection, settings)
        for table in settings.source.tables:
            yield from tables.look(connection, settings, table)


def _not_a_primary(connection: postgres.Connection) -> Finding | None:
    """Tell whether this is a pooler or a standby: neither has a slot to read."""
    if connection.info.backend_pid != one(connection, "SELECT pg_backend_pid()"):
        # A pooler gives its clients process ids of its own, whatever its name is.
        return Finding("fault", "the dsn leads to a connection pooler", "no WAL passes there", postgres.AROUND_POOLER)
    if one(connection, "SELECT pg_is_in_recovery()"):
        error = refusals.in_recovery()
        return Finding("fault", error.message, "capture waits until it is promoted", error.hint)
    return None


def _server(connection: postgres.Connection) -> Server:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings")
        settings = dict(cursor.fetchall())
        cursor.execute("SELECT rolname FROM pg_roles")
        return Server(settings, [role for (role,) in cursor])


def _slot_is_there(connection: postgres.Connection, settings: Settings) -> bool:
    return bool(one(connection, "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", (settings.source.slot,)))


def _decoding(connection: postgres.Connection, settings: Settings, found: Server) -> Iterator[Finding]:
    """Try both halves: a replication connection, and a temporary slot, which leaves nothing."""
    why = "capture reads the WAL through a slot"
    if not one(connection, _MAY_REPLICATE):
        role = one(connection, "SELECT quote_ident(current_user)")
        yield Finding("fault", f"the role {role} may not read a slot", why, found.allow_replication(role))
        return
    try:
        with closing(slot.Slot(settings.source.dsn.get_secret_value(), settings.source.slot)) as opened:
            opened.identify()
    except ServiceError as exc:
        yield Finding("fault", exc.message, "capture streams over a replication connection", exc.hint)
    else:
        timeout = found.settings["wal_sender_timeout"]
        own = f"{slot.WAL_SENDER_TIMEOUT_S}s in the reader's session ({timeout} ms elsewhere)"
        yield Finding("ok", f"a replication connection is let in; wal_sender_timeout is {own}")
    if found.settings["wal_level"] == "logical":
        yield _try_plugin(connection, found, why)


def _try_plugin(connection: postgres.Connection, found: Server, why: str) -> Finding:
    """Do what makes a slot: that needs the right, the plugin, its permission and a free place."""
    try:
        one(connection, "SELECT pg_create_logical_replication_slot('pgherald_preflight', 'wal2json', true)")
        one(connection, "SELECT pg_drop_replication_slot('pgherald_preflight')")
        one(connection, slot.CATALOG_CHANGE)
    except psycopg2.errors.ConfigurationLimitExceeded:
        return Finding("ok", "no slot is free to try wal2json with")  # server.look says whether that matters
    except psycopg2.Error as exc:
        error = slot.cannot_create(exc)
        if postgres.ALLOW_PLUGIN not in error.hint:
            return Finding("fault", error.message, why, error.hint)
        return plugin_refused(connection, found, error.message, why)
    return Finding("ok", "wal2json decodes for this role")


def plugin_refused(connection: postgres.Connection, found: Server, what: str, why: str) -> Finding:
    """Say how wal2json is allowed beside the plugins that are; a superuser's `--fix` does it, but at no provider's."""
    known = found.settings.get("output_plugin_libraries", "")
    names = [name.strip() for name in known.split(",") if name.strip()]
    allowed = ", ".join(dict.fromkeys([*names, "pgoutput", "test_decoding", "wal2json"]))
    remedy = found.change("output_plugin_libraries", allowed)
    may = not found.provider and one(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    fix = statements(connection, *remedy.rstrip(";").split("; ")) if may else None
    return Finding("fault", what, why, remedy, fix)


def _slot(connection: postgres.Connection, settings: Settings) -> Iterator[Finding]:
    name = settings.source.slot
    try:
        there = slot.exists(connection, name)
    except ServiceError as exc:
        yield Finding("fault", exc.message, "capture reads a slot of its own", exc.hint)
        return
    status = measure.read(settings)
    threat = measure.danger(status)
    if threat:
        lost = status["wal_status"] == "lost"
        why = "changes are missing from Kafka" if lost else "what is removed unread is lost"
        what, _, remedy = threat.partition(": ")
        yield Finding("fault" if lost else "warning", f"the slot {name}: {what}", why, remedy)
    else:
        yield Finding("ok", f"the slot {name} is {'there' if there else 'not there yet: the first start makes it'}")
