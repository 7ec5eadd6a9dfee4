"""Which shape a line has: that of the catalog, the one before it, or one that the line alone tells. Pure.

An insert and an old row that is whole show all columns. Any other update lacks wide values that did not change, and in
its line such a column has no name; of a deleted row the key is enough.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from cdc import wal2json
from cdc.contract.xid import is_before
from cdc.relation import Column, Relation, base_type, may_be_wide
from cdc.wal2json import Delete, Insert, RowChange, Update


def fits(shape: Relation, change: RowChange, xid: int) -> bool:
    """Tell whether a line can have this shape: its columns are there, and those it lacks have a reason."""
    types = {column.name: column.type for column in shape.columns}
    given = _shown(shape, change)
    if {column.name for column in change.pk} != shape.primary:
        return False
    if any(types.get(column.name) != column.type for column in given):
        return False
    return len(given) + len(_left_out(shape, change, xid)) == len(types)


def told_by(change: RowChange, xid: int, now: Relation, before: Relation | None) -> Relation:
    """Make the shape of a line that fits none: its own columns, types and key.

    The columns that it may have left out stay, under each name that they may have had: one too many says "not in the
    WAL", one too few would have vanished without a word.
    """
    # A shape that has none of the line's columns is that of another table, which had or has the name.
    shapes = [shape for shape in (before, now) if shape and _has_any(shape, change)]
    known = {column.name: column for shape in shapes for column in shape.columns}
    columns = {}
    for given in _shown(now, change):
        base = base_type(given.type, now.domains)
        same = known.get(given.name)
        wide = same.toastable if same and same.type == given.type else may_be_wide(base)
        columns[given.name] = Column(given.name, given.type, base, wide)
    may_lack = [] if _is_whole(now, change) else shapes
    left_out = {column.name: column for shape in may_lack for column in _left_out(shape, change, xid)}
    primary = tuple(column.name for column in change.pk)
    same_key = set(primary) == now.primary or (not primary and _has_unlisted_key(now, columns, xid))
    return replace(
        now,
        columns=tuple((columns | left_out).values()),
        key=now.key if same_key else primary,
        primary=frozenset(primary),
    )


def _has_unlisted_key(now: Relation, columns: Collection[str], xid: int) -> bool:
    """Tell whether a line that lists no key has the table's all the same.

    A table that became a part has its root's key from then on, and had rows before. And wal2json may have lost a key
    that was there all along (`may_hide_key`).
    """
    return set(now.key) <= set(columns) and (now.partitioned or not is_before(xid, now.key_xid))


def may_hide_key(change: RowChange, found: Relation, before: Relation) -> bool:
    """Tell whether a line that shows no key may be of a table that had one, as it had a line before.

    wal2json notes a table's key, writes the columns, and then asks whether it noted one. Hears PostgreSQL of DDL
    meanwhile, which has nothing to do with this row, the note is gone: an insert, or an update without an old row, then
    lists no key (wal2json 2.5 and 2.6, pg_decode_write_change; found in 1 of 1,000 rows right before an ALTER TABLE).
    It need not be the key of before: that may have been renamed since, or the table.
    """
    noted_once = isinstance(change, Insert | Update) and not change.identity
    return noted_once and not change.pk and not found.key and bool(before.key)


def resembles(shapes: Collection[Relation], change: RowChange) -> bool:
    """Tell whether a line may be of a part of a table that had these shapes, one after the other."""
    known = {(column.name, column.type) for shape in shapes for column in shape.columns}
    pk = {column.name for column in change.pk}
    given = change.columns or change.identity
    has_key = any(shape.primary in (pk, frozenset()) for shape in shapes)
    return has_key and all((column.name, column.type) in known for column in given)


def _left_out(shape: Relation, change: RowChange, xid: int) -> list[Column]:
    """Give the columns that the table may have had although the line lacks them.

    A column that was altered since may have come since, and is taken for one that did where nothing is stored out of
    line.
    """
    if isinstance(change, Insert) or _is_whole(shape, change):
        return []
    given = {column.name for column in change.columns or change.identity}
    absent = [column for column in shape.columns if column.name not in given]
    if isinstance(change, Delete):
        return absent
    wide = shape.has_wide_values
    return [column for column in absent if column.toastable and (wide or not is_before(xid, column.since_xid))]


def _shown(shape: Relation, change: RowChange) -> list[wal2json.Column]:
    """Give the columns that a line shows: those of the whole old row, where it has it."""
    return change.identity if _is_whole(shape, change) else change.columns or change.identity


def _is_whole(shape: Relation, change: RowChange) -> bool:
    shown = len(change.identity)
    return shape.full_identity and shown > len(change.pk) and shown >= len(change.columns)


def _has_any(shape: Relation, change: RowChange) -> bool:
    types = {(column.name, column.type) for column in shape.columns}
    return any((column.name, column.type) in types for column in change.columns or change.identity)
