"""Looks at every condition on PostgreSQL and Kafka: what is wrong, why it matters, the statement that mends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2

from cdc import catalog, slot, start
from cdc.relation import Relation
from cdc.rows import plan
from cdc.runtime import kafka, postgres, topics
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.findings import Finding
from cdc.runtime.sections import SourceTable
from cdc.runtime.settings import Settings


def source(settings: Settings) -> Iterator[Finding]:
    """Look at the database that is read, as the role of source.dsn."""
    with closing(start.connect(settings)) as connection, postgres.errors():
        yield Finding("ok", f"PostgreSQL {_one(connection, 'SHOW server_version')} answers and lets the role in")
        yield from _server(connection)
        yield from _decoding(connection, settings)
        yield from _slot(connection, settings)
        for table in settings.source.tables:
            yield from _table(connection, settings, table)


def _server(connection: postgres.Connection) -> Iterator[Finding]:
    if (level := _one(connection, "SHOW wal_level")) == "logical":
        yield Finding("ok", "wal_level is logical")
    else:
        remedy = "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL"
        yield Finding("fault", f"wal_level is {level}", "the WAL holds no rows to decode", remedy)
    if (encoding := _one(connection, "SHOW server_encoding")) != "UTF8":
        yield Finding(
            "fault", f"the database is {encoding}, not UTF8", "wal2json writes its bytes into JSON as they are"
        )
    if _one(connection, "SHOW max_slot_wal_keep_size") == "-1":
        why = "a reader that is down for long lets the WAL fill the disk"
        remedy = "ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'; SELECT pg_reload_conf(); and watch the lag"
        yield Finding("warning", "the WAL that a slot holds back has no limit", why, remedy)


def _decoding(connection: postgres.Connection, settings: Settings) -> Iterator[Finding]:
    """Try it: a temporary slot needs the right, the plugin, its permission and a free place, and leaves nothing."""
    why = "capture reads the WAL through a slot"
    role = _one(connection, "SELECT current_user")
    if not _one(connection, "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"):
        remedy = f'ALTER ROLE "{role}" REPLICATION;'
        yield Finding("fault", f"the role {role} may not read a slot", why, remedy)
        return
    try:
        _one(connection, "SELECT pg_create_logical_replication_slot('pgherald_preflight', 'wal2json', true)")
        _one(connection, "SELECT pg_drop_replication_slot('pgherald_preflight')")
    except psycopg2.Error as exc:
        error = slot.cannot_create(exc)
        yield Finding("fault", error.message, why, error.hint, fix=_plugin_fix(connection, error.hint))
    else:
        yield Finding("ok", "wal2json decodes for this role")


def _plugin_fix(connection: postgres.Connection, remedy: str) -> Any:
    if postgres.ALLOW_PLUGIN not in remedy or not _one(connection, "SELECT usesuper FROM pg_user WHERE usename = user"):
        return None

    def fix() -> None:
        for statement in postgres.ALLOW_PLUGIN.rstrip(";").split("; "):
            _one(connection, statement, fetch=statement.startswith("SELECT"))

    return fix


def _slot(connection: postgres.Connection, settings: Settings) -> Iterator[Finding]:
    name = settings.source.slot
    status = _one(connection, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", (name,))
    if status == "lost":
        yield Finding("fault", f"the slot {name} is lost", "changes are missing from Kafka", "pgherald slot recover")
    elif status == "unreserved":
        why = "the next checkpoint may remove WAL that it needs"
        yield Finding("warning", f"the slot {name} is about to be lost", why, "start `pgherald capture` at once")
    else:
        yield Finding("ok", f"the slot {name} is {'there' if status else 'not there yet: the first start makes it'}")


def _table(connection: postgres.Connection, settings: Settings, table: SourceTable) -> Iterator[Finding]:
    name = table.name.sql()
    relation = catalog.read_relation(connection, table.name)
    if relation is None:
        yield Finding("fault", f"there is no table {name}", "it is named in source.tables", "correct source.tables")
        return
    if not _one(connection, "SELECT has_table_privilege(%s, 'SELECT')", (name,)):
        role = _one(connection, "SELECT quote_ident(current_user)")
        remedy = f"GRANT USAGE ON SCHEMA {table.name.schema} TO {role}; GRANT SELECT ON {name} TO {role};"
        yield Finding("fault", f"the role may not read {name}", "the initial snapshot reads its rows", remedy)
    try:
        planned = plan(settings.source, table, relation)
    except ConfigInvalid as exc:
        yield Finding("fault", exc.message, remedy=exc.hint)
        return
    left_out = ", ".join(sorted(set(planned.columns) - set(planned.written()))) or "none"
    yield Finding("ok", f"{name} is captured; columns that stay home: {left_out}")
    yield from _identity(settings, relation, planned.written())


def _identity(settings: Settings, relation: Relation, written: list[str]) -> Iterator[Finding]:
    name = relation.name.sql()
    if not relation.key and not relation.full_identity:
        why = "PostgreSQL logs no updates and deletes of it that could be decoded; inserts flow with a null key"
        yield Finding("warning", f"{name} has no primary key", why, f"ALTER TABLE {name} ADD PRIMARY KEY (...);")
    for rule in settings.rules:
        watched = {kind.removeprefix("changed:") for kind in rule.on if kind.startswith("changed:")}
        if not watched or settings.table_of(rule) != relation.name:
            continue
        if unseen := sorted(watched - set(written)):
            what = f"the rule {rule.name} watches {', '.join(unseen)}, which {name} has not or which stays home"
            yield Finding("fault", what, "it would never match", "correct rules.on, or source.tables.allow")
        if not relation.full_identity:
            why = f"the rule {rule.name} is on changed:{min(watched)}, which needs the old row"
            remedy = f"ALTER TABLE {name} REPLICA IDENTITY FULL;"
            yield Finding("fault", f"{name} logs no old rows", why, remedy)


def brokers(settings: Settings) -> Iterator[Finding]:
    """Look at the Kafka cluster."""
    with closing(kafka.admin(settings.kafka)) as client, kafka.errors():
        count = len(client.describe_cluster()["brokers"])
        there = set(client.list_topics())
    yield Finding("ok", f"Kafka answers with {count} brokers")
    if count < settings.kafka.replication_factor:
        why = f"kafka.replication_factor is {settings.kafka.replication_factor}"
        yield Finding("fault", f"Kafka has {count} brokers", why, "lower it, or start more brokers")
    if settings.kafka.replication_factor == 1 and count > 1:
        remedy = "set kafka.replication_factor = 3 before the topics are made"
        yield Finding("warning", "topics have one copy only", "a lost disk loses events", remedy)
    missing = sorted(set(topics.wanted(settings)) - there)
    if missing and not settings.kafka.create_topics:
        why = "kafka.create_topics is false, so pgherald makes none"
        yield Finding("fault", f"topics are missing: {', '.join(missing)}", why, _create_topics(settings, missing))
    elif missing:
        yield Finding("ok", f"topics that the first start makes: {', '.join(missing)}")
    else:
        yield Finding("ok", "every topic is there")


def _create_topics(settings: Settings, missing: list[str]) -> str:
    wanted = topics.wanted(settings)
    server = settings.kafka.bootstrap_servers.split(",")[0]
    commands = []
    for topic in missing:
        new = wanted[topic]
        configs = " ".join(f"--config {key}={value}" for key, value in new.configs.items())
        commands.append(
            f"kafka-topics.sh --bootstrap-server {server} --create --topic {topic} "
            f"--partitions {new.partitions} --replication-factor {new.replication_factor} {configs}"
        )
    return "; ".join(commands)


def _one(connection: postgres.Connection, query: str, values: tuple[object, ...] = (), *, fetch: bool = True) -> Any:
    """Run a query of one value; None when it has no row."""
    with connection.cursor() as cursor:
        cursor.execute(query, values or None)
        row = cursor.fetchone() if fetch else None
    return row[0] if row else None
