"""Whether PostgreSQL logs the old rows that rules need: looked at once, when a consumer starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing

from cdc.runtime import postgres
from cdc.runtime.errors import FatalError, ServiceError
from cdc.runtime.fields import TableName
from cdc.runtime.log import get_logger
from cdc.runtime.sections import Rule
from cdc.runtime.settings import Settings

_log = get_logger("consumers")
_IDENTITY = """
    SELECT coalesce((
        SELECT bool_and(leaf.relreplident = 'f') FROM pg_catalog.pg_partition_tree(pg_class.oid)
        JOIN pg_catalog.pg_class leaf ON leaf.oid = relid WHERE isleaf
    ), relreplident = 'f'), array(
        SELECT attname::text FROM pg_catalog.pg_index
        JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
        WHERE indrelid = pg_class.oid AND indisprimary
    ), relkind = 'p'
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = %s AND relname = %s
"""


def check(settings: Settings, rules: Iterable[Rule]) -> None:
    """Raise FatalError, with the statement for each table, when rules need old rows that are not logged.

    A source that can't be asked now does not keep deliveries waiting: an event without its old row says so itself.
    """
    needing = [rule for rule in rules if rule.needs_old_row((), settings.user)]
    try:
        faults = list(_faults(settings, needing)) if needing else []
    except ServiceError as exc:
        _log.warning("old_rows_not_checked", why=str(exc))
        return
    if faults:
        what, remedies = zip(*faults, strict=True)
        raise FatalError("; ".join(what), hint=" ".join(dict.fromkeys(remedies)))


def _faults(settings: Settings, rules: Iterable[Rule]) -> Iterator[tuple[str, str]]:
    dsn = settings.source.dsn.get_secret_value()
    with closing(postgres.connect(dsn, application_name="pgherald consume")) as connection:
        for rule in rules:
            table = settings.table_of(rule)
            found = _identity(connection, table)
            if found and not found[0] and (kinds := rule.needs_old_row(found[1], settings.user)):
                what = f"the rule {rule.name} on {', '.join(kinds)} needs old rows, which {table.sql()} does not log"
                each = " for each of its partitions (`pgherald preflight` writes it)" if found[2] else ""
                yield what, f"ALTER TABLE {table.sql()} REPLICA IDENTITY FULL;{each}"


def _identity(connection: postgres.Connection, table: TableName) -> tuple[bool, list[str], bool] | None:
    """Tell (whether old rows are logged whole, the key, whether it is partitioned); None: there is no such table."""
    with postgres.errors(), connection.cursor() as cursor:
        cursor.execute(_IDENTITY, table)
        found: tuple[bool, list[str], bool] | None = cursor.fetchone()
        return found
