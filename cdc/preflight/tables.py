"""What preflight says of the captured tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cdc import catalog
from cdc.preflight import filters
from cdc.preflight.ask import one, statements
from cdc.relation import Relation
from cdc.rows import plan
from cdc.runtime import postgres
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.fields import quoted
from cdc.runtime.findings import Finding
from cdc.runtime.sections import SourceTable
from cdc.runtime.settings import Settings
from cdc.tables import check_part, identity_sql

#: The columns of a primary key that the WAL does not know.
_DEFERRED = """
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY place) FROM pg_index
    JOIN unnest(indkey) WITH ORDINALITY key(number, place) ON place <= indnkeyatts
    JOIN pg_attribute ON attrelid = indrelid AND attnum = number
    WHERE indrelid = %s::regclass AND indisprimary AND NOT indimmediate
"""
#: Of a table up to this size old rows may be logged without asking: each update writes the row twice from then on.
SMALL_BYTES = 64 << 20


def look(connection: postgres.Connection, settings: Settings, table: SourceTable) -> Iterator[Finding]:
    name = table.name.sql()
    relation = catalog.read_relation(connection, table.name)
    if relation is None:
        yield Finding("fault", f"there is no table {name}", "it is named in source.tables", "correct source.tables")
        return
    if not one(connection, "SELECT has_table_privilege(%s, 'SELECT')", (name,)):
        role = one(connection, "SELECT quote_ident(current_user)")
        schema = quoted(table.name.schema)
        remedy = f"GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {name} TO {role};"
        fix = statements(connection, remedy) if _owns(connection, name) else None
        yield Finding("fault", f"the role may not read {name}", "the initial snapshot reads its rows", remedy, fix)
    elif one(connection, "SELECT row_security_active(%s)", (name,)):
        role = one(connection, "SELECT quote_ident(current_user)")
        why = "the initial snapshot would lack rows, so it is refused"
        yield Finding("fault", f"row security hides rows of {name} from the role", why, f"ALTER ROLE {role} BYPASSRLS;")
    try:
        check_part(settings.source, table.name, catalog.Catalog(connection).root(table.name)[0])
        planned = plan(settings.source, table, relation)
    except ConfigInvalid as exc:
        yield Finding("fault", exc.message, remedy=exc.hint)
        return
    left_out = ", ".join(sorted(set(planned.columns) - set(planned.written()))) or "none"
    yield Finding("ok", f"{name} is captured; columns that stay home: {left_out}")
    if not relation.logged:
        yield Finding(
            "fault",
            f"{name} or a partition of it is UNLOGGED",
            "its changes are not in the WAL, so they would never come",
            f"ALTER TABLE {name} SET LOGGED; (it rewrites the table, or do so for its partitions)",
        )
    yield from _identity(connection, settings, relation, planned.written())
    yield from filters.unknown_columns(table, relation)
    yield from filters.lost_numbers(connection, relation, planned)


def _identity(
    connection: postgres.Connection, settings: Settings, relation: Relation, written: list[str]
) -> Iterator[Finding]:
    name = relation.name.sql()
    if not relation.key and not relation.full_identity:
        why = "PostgreSQL logs no updates and deletes of it that could be decoded; inserts flow with a null key"
        deferred = one(connection, _DEFERRED, (name,))
        what = f"{name} has no primary key" + (" for the WAL: it is deferrable" if deferred else "")
        yield Finding("warning", what, why, _key_sql(relation, deferred))
    elif not relation.logs_old_keys:
        what, why = f"{name} has REPLICA IDENTITY NOTHING", "PostgreSQL logs no updates and deletes of it"
        if relation.identity == "index":
            what = f"{name} has a REPLICA IDENTITY without its primary key"
            why = "a delete comes with a null key, and a change of the key as an update"
        yield _mend_identity(connection, relation, Finding("warning", what, why, identity_sql(relation, "DEFAULT")))
    for rule in settings.rules:
        watched = {kind.removeprefix("changed:") for kind in rule.on if kind.startswith("changed:")}
        if settings.table_of(rule) != relation.name:
            continue
        if unseen := sorted(watched - set(written)):
            what = f"the rule {rule.name} watches {', '.join(unseen)}, which {name} has not or which stays home"
            yield Finding("fault", what, "it would never match", "correct rules.on, or source.tables.allow")
        for setting, needed in (("email", rule.mail), ("plan", rule.services)):
            if needed and (column := getattr(settings.user, setting)) not in written:
                what = f"the rule {rule.name} reads user.{setting}, which {name} has not or which stays home: {column}"
                yield Finding("fault", what, "it would do nothing for anyone", f"correct user.{setting}")
        if not relation.full_identity and (kinds := rule.needs_old_row(relation.key, settings.user)):
            why = f"the rule {rule.name} is on {', '.join(kinds)}, which needs the old row"
            fault = Finding("fault", f"{name} logs no old rows", why, identity_sql(relation, "FULL"))
            yield _mend_identity(connection, relation, fault)


def _key_sql(relation: Relation, deferred: str | None) -> str:
    """Write the statement that gives a table a key; beside one that is deferrable there can't be another."""
    name = relation.name.sql()
    if not deferred:
        return f"ALTER TABLE {name} ADD PRIMARY KEY (...);"
    index = quoted(f"{relation.name.table}_identity")
    use = f"ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}; then start capture again"
    return f"CREATE UNIQUE INDEX {index} ON {name} ({deferred}); {use}"


def _mend_identity(connection: postgres.Connection, relation: Relation, finding: Finding) -> Finding:
    """Let `--fix` change the identity of a small table of the role's own; a large one's is costly."""
    name = relation.name.sql()
    if relation.partitioned or not _owns(connection, name):
        return finding
    small = one(connection, "SELECT pg_table_size(%s::regclass)", (name,)) < SMALL_BYTES
    return replace(finding, fix=statements(connection, finding.remedy) if small else None)


def _owns(connection: postgres.Connection, name: str) -> bool:
    query = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = %s::regclass"
    return bool(one(connection, query, (name,)))
