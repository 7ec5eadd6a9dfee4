"""What PostgreSQL's catalog says of the captured tables: columns, types, key, replica identity, partitions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

from cdc.contract.xid import Seen
from cdc.relation import Column, Identity, Relation, base_type
from cdc.runtime.errors import RetryableError
from cdc.runtime.fields import TableName
from cdc.runtime.postgres import Connection, errors

_VISIBLE_S = 5.0
_ASK_AGAIN_S = 0.005
#: attlen -1 is what wal2json asks before it leaves an unchanged value out; a storage option says nothing of old values.
_COLUMNS = """
    SELECT coalesce(json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod), a.attlen = -1,
        a.xmin::text::bigint) ORDER BY a.attnum), '[]')
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
"""
#: A deferrable key is none for the WAL.
_INDEXES = """
    SELECT coalesce(json_agg(json_build_array(a.attname, i.indisprimary, i.indisreplident, k.place <= i.indnkeyatts)
        ORDER BY k.place), '[]')
    FROM pg_index i JOIN unnest(i.indkey) WITH ORDINALITY k(attnum, place) ON true
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident) AND i.indisvalid AND i.indimmediate
"""
_DOMAINS = """
    SELECT coalesce(json_object_agg(format_type(oid, NULL), format_type(typbasetype, typtypmod)), '{}')
    FROM pg_type WHERE typtype = 'd'
"""
#: One statement: what another session alters meanwhile is in all of the answer or in nothing of it. The identity of a
#: partitioned table is that of its partitions, each of which has its own: the least of them.
_RELATION = f"""
    SELECT ({_DOMAINS}), ({_COLUMNS}), ({_INDEXES}),
        coalesce(parts.least, strpos('nidf', c.relreplident::text)), c.relkind = 'p',
        coalesce((SELECT a.xmin::text::bigint FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
            ORDER BY age(a.xmin) LIMIT 1), 0),
        coalesce((SELECT k.xmin::text::bigint FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p'), 0),
        coalesce(parts.wide, pg_relation_size(nullif(c.reltoastrelid, 0)) > 0, false),
        coalesce(parts.logged, c.relpersistence = 'p')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN LATERAL (
        SELECT min(strpos('nidf', leaf.relreplident::text)) AS least,
               bool_or(pg_relation_size(nullif(leaf.reltoastrelid, 0)) > 0) AS wide,
               bool_and(leaf.relpersistence = 'p') AS logged
        FROM pg_partition_tree(c.oid) t JOIN pg_class leaf ON leaf.oid = t.relid AND t.isleaf
        WHERE c.relkind = 'p'
    ) parts ON true
    WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""  # noqa: S608  constants
_IDENTITIES: Sequence[Identity] = ("nothing", "index", "default", "full")
#: Attaching and detaching alters every column of a part; what else alters a table leaves the oldest one alone.
_OLDEST_COLUMN = """
    (SELECT a.xmin::text::bigint FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY age(a.xmin) DESC LIMIT 1)
"""
_ROOT = f"""
    SELECT c.xmin::text::bigint, {_OLDEST_COLUMN}, rn.nspname, r.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
    LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
    WHERE n.nspname = %s AND c.relname = %s
"""  # noqa: S608  constants
_PARTITIONS = f"""
    SELECT n.nspname, c.relname, c.xmin::text::bigint, {_OLDEST_COLUMN}
    FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace,
    LATERAL pg_partition_tree(r.oid) t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE rn.nspname = %s AND r.relname = %s AND r.relkind = 'p' AND t.level > 0
"""  # noqa: S608  constants

_PLACES = """
    SELECT n.nspname, c.relname, c.oid, c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (n.nspname, c.relname) IN %s AND c.relkind IN ('r', 'p')
"""
_NAME_OF = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s"

_STORED = """
    WITH RECURSIVE part(oid) AS (
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE (n.nspname, c.relname) IN %s
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN part ON part.oid = i.inhparent
    )
    SELECT c.oid, c.relfilenode, array_agg((a.attnum, a.attname, a.atttypid, a.atttypmod)::text ORDER BY a.attnum)
    FROM part JOIN pg_class c USING (oid) JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    GROUP BY c.oid, c.relfilenode ORDER BY c.oid
"""


class Place(NamedTuple):
    """Which table has a name now."""

    oid: int
    partitioned: bool


class Altered(NamedTuple):
    """Which transactions altered a table last, and all of its columns last; None where it is gone."""

    xid: int | None = None
    columns_xid: int | None = None


class Catalog:
    """Asks a session; every answer is newer than what was `seen` before it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def seen(self, xid: int | None = None) -> Seen:
        """Tell which transactions the next answers see; wait for this one, which is committed.

        The WAL tells of a commit before other sessions see it. Raises RetryableError where that takes long: it waits
        for a standby.
        """
        until = time.monotonic() + _VISIBLE_S
        while True:
            seen = Seen.parse(self._ask("SELECT pg_current_snapshot()::text")[0][0])
            if xid is None or seen.includes(xid):
                return seen
            if time.monotonic() > until:
                raise RetryableError("a committed transaction is not visible yet: it waits for a synchronous standby")
            time.sleep(_ASK_AGAIN_S)

    def relation(self, name: TableName) -> Relation | None:
        """Read one table's shape; None when there is no such table."""
        return read_relation(self._connection, name)

    def root(self, name: TableName) -> tuple[TableName | None, Altered]:
        """Find the partitioned table that a table is a part of, and who altered the table last."""
        found = self._ask(_ROOT, name)
        if not found:
            return None, Altered()
        xid, columns_xid, *root = found[0]
        return (TableName(*root) if root[0] else None), Altered(xid, columns_xid)

    def partitions(self, root: TableName) -> dict[TableName, Altered]:
        """List the parts of a partitioned table, and theirs, with who altered them."""
        rows = self._ask(_PARTITIONS, root)
        return {TableName(schema, table): Altered(*altered) for schema, table, *altered in rows}

    def places(self, names: list[TableName]) -> dict[TableName, Place]:
        """Tell which of these names are tables now."""
        found = self._ask(_PLACES, (tuple(names),))
        return {TableName(schema, table): Place(*place) for schema, table, *place in found}

    def name_of(self, oid: int) -> TableName | None:
        """Tell how a table is called now; None when it is gone."""
        found = self._ask(_NAME_OF, (oid,))
        return TableName(*found[0]) if found else None

    def _ask(self, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with errors(), closing(self._connection.cursor()) as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall()


def read_relation(connection: Connection, name: TableName) -> Relation | None:
    """Read one table's shape; None when there is no such table."""
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute(_RELATION, name)
        found = cursor.fetchone()
    if found is None:
        return None
    domains, listed, indexed, place, partitioned, changed_xid, key_xid, wide, logged = found
    columns = tuple(_column(domains, *column) for column in listed)
    primary, key, identity = _keys(_IDENTITIES[place - 1], indexed)
    return Relation(name, columns, key, identity, primary, partitioned, changed_xid, key_xid, wide, domains, logged)


def _keys(
    identity: Identity, indexed: list[tuple[str, bool, bool, bool]]
) -> tuple[frozenset[str], tuple[str, ...], Identity]:
    """Give the columns of the primary key's index, those of the key in order, and what the WAL has of an old row."""
    primary = tuple(name for name, is_primary, _, is_key in indexed if is_primary and is_key)
    named = tuple(name for name, _, is_identity, is_key in indexed if is_identity and is_key)
    if identity == "index" and not named:
        identity = "nothing"  # its index is gone
    elif identity == "index" and primary and set(primary) <= set(named):
        identity = "default"  # it holds the primary key, which is all that is asked of it
    key = primary or (named if identity == "index" else ())
    return frozenset(name for name, is_primary, *_ in indexed if is_primary), key, identity


def _column(domains: dict[str, str], name: str, type_: str, toastable: bool, since_xid: int) -> Column:
    # The one quoted name that needs no schema: wal2json takes its quotes for those of JSON.
    logged = "char" if type_ == '"char"' else type_
    return Column(name, logged, base_type(type_, domains), toastable, since_xid)


def stored(connection: Connection, names: Sequence[TableName]) -> list[tuple[Any, ...]]:
    """Tell in which files the rows of tables and their parts lie, and under which columns, as the session sees it.

    A snapshot reads right what is stored now as it was stored then: by names that are others now it reads other
    columns, and of rows that were written anew since (ALTER TYPE, TRUNCATE) it sees none.
    """
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute(_STORED, (tuple(names),))
        return cursor.fetchall()


def estimated_rows(connection: Connection, name: TableName) -> int | None:
    """Tell about how many rows a table has, by its statistics; None when it was never analysed or is gone."""
    query = """
        SELECT sum(reltuples)::bigint FROM pg_class WHERE relkind = 'r' AND reltuples >= 0
        AND (oid = to_regclass(%(name)s) OR oid IN (SELECT relid FROM pg_partition_tree(to_regclass(%(name)s))))
    """
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute(query, {"name": name.sql()})
        found = cursor.fetchone()
    return found[0] if found else None
