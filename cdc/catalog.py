"""What PostgreSQL's catalog says of the captured tables: columns, types, key, replica identity."""

from __future__ import annotations

from contextlib import closing

from cdc.relation import Column, Relation
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.fields import TableName
from cdc.runtime.postgres import Connection, errors

_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attstorage <> 'p'
    FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_KEY = """
    SELECT a.attname FROM pg_index i
    JOIN unnest(i.indkey) WITH ORDINALITY k(attnum, place) ON true
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = %s AND i.indisprimary ORDER BY k.place
"""
_RELATION = """
    SELECT c.oid, c.relreplident, c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""
_DOMAINS = "SELECT format_type(oid, NULL), format_type(typbasetype, typtypmod) FROM pg_type WHERE typtype = 'd'"


def read_relation(connection: Connection, name: TableName) -> Relation | None:
    """Read one table's shape; None when there is no such table. Raises ConfigInvalid for a partitioned one."""
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute(_RELATION, name)
        found = cursor.fetchone()
        if found is None:
            return None
        oid, identity, partitioned = found
        if partitioned:
            # Its rows are logged under their partitions' names: a filter on the root would see nothing.
            raise ConfigInvalid(f"{name.sql()} is partitioned", hint="Name its partitions in source.tables, each one")
        cursor.execute(_DOMAINS)
        domains = dict(cursor.fetchall())
        cursor.execute(_COLUMNS, (oid,))
        columns = tuple(_column(domains, *found) for found in cursor)
        cursor.execute(_KEY, (oid,))
        key = tuple(column for (column,) in cursor)
    return Relation(name, columns, key, identity in ("f", b"f"))


def _column(domains: dict[str, str], name: str, type_: str, toastable: bool) -> Column:
    # The one quoted name that needs no schema: wal2json takes its quotes for those of JSON.
    logged = "char" if type_ == '"char"' else type_
    return Column(name, logged, base_type(type_, domains), toastable)


def base_type(type_name: str, domains: dict[str, str]) -> str:
    """Look below domains: a `posint[]` over `integer` is `integer[]`."""
    element = type_name.removesuffix("[]")
    if element != type_name:
        return base_type(element, domains) + "[]"
    below = domains.get(type_name)
    return base_type(below, domains) if below else type_name
