"""The plan of one table: which columns go into its envelopes, how each is rendered, what the key is. Pure.

A plan fits the lines of one shape of the table; after DDL a new one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from cdc import wal2json
from cdc.contract.envelope import UNAVAILABLE
from cdc.contract.topics import table_topic
from cdc.cutting import Cutter, Written
from cdc.privacy import Treatment, guard, treatment
from cdc.relation import Column, Relation
from cdc.runtime.errors import ChangeUndecodable, ConfigInvalid
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Source, SourceTable
from cdc.values import FAULTS, Codec, FromToken, codec, of_domain
from cdc.wal2json import Delete, Insert, RowChange

_json = msgspec.json.encode
_UNAVAILABLE = _json(UNAVAILABLE)
_NULL = b"null"


class _Column(NamedTuple):
    """How one column is written."""

    type: str
    #: `"name":`, or None where the column does not leave the reader.
    label: bytes | None
    #: The same, or None where the column can't be part of a key either.
    key_label: bytes | None
    codec: Codec


@dataclass(frozen=True)
class TablePlan:
    """Renders the rows and keys of one table."""

    name: TableName
    topic: str
    #: The table as metrics and logs name it.
    title: str
    #: `"schema":...,"table":...` of the envelope's source.
    source_tail: bytes
    columns: dict[str, _Column]
    key: tuple[str, ...]
    relation: Relation
    table: SourceTable
    hash_key: bytes
    _other_keys: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict, init=False, repr=False)

    def shows(self, change: RowChange) -> bool:
        """Tell whether a line shows all of this shape: the same columns in the same order, their types, the key."""
        given = change.columns or change.identity
        shape = self._shape
        if len(given) != len(shape) or not self._has_key(change.pk):
            return False
        for column, (name, type_) in zip(given, shape, strict=False):
            if column.name != name or column.type != type_:
                return False
        return True

    def _has_key(self, given: Sequence[wal2json.KeyColumn]) -> bool:
        """Tell whether a line lists the columns of our primary key."""
        primary = self._primary
        if len(given) == 1 == len(primary):
            return given[0].name == primary[0]  # for most rows of most tables
        return [column.name for column in given] == list(primary)

    def with_shape(self, relation: Relation) -> TablePlan:
        """Plan the same table in another shape. Raises ConfigInvalid when a key column must not leave."""
        columns = _columns(relation.columns, self.table, self.hash_key)
        for name in relation.key:
            if name in columns and columns[name].key_label is None:
                raise _secret_key(relation.name, name)
        return replace(self, relation=relation, key=relation.key, columns=columns)

    def rows(self, change: RowChange) -> tuple[bytes, bytes]:
        """Render before and after as JSON objects, or null."""
        if isinstance(change, Delete):
            return self.old_row(change), _NULL
        if isinstance(change, Insert):
            return _NULL, self._row(change.columns)
        after = self._row(change.columns, change.identity)  # what did not change may stand there alone, a wide key too
        return (self._row(change.identity) if self.is_full(change) else _NULL), after

    def old_row(self, change: RowChange) -> bytes:
        """Render what is known of the old row: all of it, or the key with the other columns null."""
        return self._row(change.identity, absent=_NULL)

    def keys(self, change: RowChange) -> tuple[bytes | None, bytes | None]:
        """Render the row's key and the key it had before; None where the line tells of none.

        Raises ConfigInvalid when a key column must not leave: the key of an old line may be another than today's.
        """
        key = self._key_of(change)
        if not key:
            return None, None
        old = self._key(key, change.identity)
        # A key that is wide and did not change stands in the identity alone.
        new = self._key(key, change.columns, change.identity) if change.columns else old
        return new, old

    def _key_of(self, change: RowChange) -> tuple[str, ...]:
        """Give the key's columns in their order; the line lists them as the table does, those of INCLUDE among them."""
        if self._has_key(change.pk):
            return self.key
        given = tuple(column.name for column in change.pk)
        if given not in self._other_keys:
            self._other_keys[given] = self.key if set(given) == self.relation.primary else given
        return self._other_keys[given]

    @property
    def from_sql(self) -> str:
        """Write what a SELECT of its rows is from: a partitioned table has them in its parts, others only in itself."""
        return self.name.sql() if self.relation.partitioned else f"ONLY {self.name.sql()}"

    def written(self) -> list[str]:
        """Name the columns that leave the reader, in table order."""
        return [name for name, column in self.columns.items() if column.label is not None]

    def unwritable(self, change: RowChange) -> ChangeUndecodable:
        """Make the error of a line of which a value can't be rendered."""
        culprits = (c.name for c in (*change.columns, *change.identity) if _fails(self._value, c))
        return self.unwritable_value(next(culprits, ""))

    def unwritable_value(self, column: str, **fields: object) -> ChangeUndecodable:
        """Make the error of a column's value that can't be rendered."""
        return ChangeUndecodable(
            f"a value of {self.title}, column {column}, can't be written",
            hint=f'exclude = ["{column}"] under source.tables leaves it out',
            table=self.title,
            column=column,
            **fields,
        )

    @cached_property
    def cutter(self) -> Cutter | None:
        """For lines that show all columns of this plan; None for a table without a key, or with nothing beside it."""
        if not self.key or len(self._primary) == len(self.columns):
            return None
        columns = [Written(name, c.type, c.label, c.codec.from_token) for name, c in self.columns.items()]
        return Cutter(columns, self._primary, self.key)

    @cached_property
    def _shape(self) -> list[tuple[str, str]]:
        return [(name, column.type) for name, column in self.columns.items()]

    @cached_property
    def _ordered(self) -> list[tuple[str, bytes | None, FromToken]]:
        return [(name, column.label, column.codec.from_token) for name, column in self.columns.items()]

    @cached_property
    def _primary(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name in self.relation.primary)

    def is_full(self, change: RowChange) -> bool:
        """Tell whether the line holds the whole old row; a table of key columns only needs the catalog's word."""
        if len(change.identity) < len(self.columns):
            return False
        return self.relation.full_identity or {c.name for c in change.identity} != {c.name for c in change.pk}

    def _key(
        self, key: tuple[str, ...], columns: Sequence[wal2json.Column], older: Sequence[wal2json.Column] = ()
    ) -> bytes | None:
        parts = []
        for name in key:
            given = _named(name, columns) or _named(name, older)
            if given is None:
                return None
            if (label := self.columns[name].key_label) is None:
                raise _secret_key(self.name, name)
            parts.append(label + self._value(given))
        return b"{" + b",".join(parts) + b"}"

    def _value(self, column: wal2json.Column) -> bytes:
        token = bytes(column.value)
        from_token = self.columns[column.name].codec.from_token
        return token if token == _NULL or from_token is None else from_token(token)

    def _row(
        self,
        given: Sequence[wal2json.Column],
        older: Sequence[wal2json.Column] = (),
        absent: bytes = _UNAVAILABLE,
    ) -> bytes:
        """Render a row in table order; what is absent comes from the old row where there is one."""
        parts = []
        if len(given) == len(self._ordered):
            for column, (name, label, from_token) in zip(given, self._ordered, strict=False):
                if column.name != name:
                    break  # a partition has the columns of its root in an order of its own
                if label is not None:
                    token = bytes(column.value)
                    parts.append(label + (token if from_token is None or token == _NULL else from_token(token)))
            else:
                return b"{" + b",".join(parts) + b"}"
        values = {column.name: column for column in (*older, *given)}
        parts = [
            label + (self._value(values[name]) if name in values else absent)
            for name, label, _ in self._ordered
            if label is not None
        ]
        return b"{" + b",".join(parts) + b"}"


def _named(name: str, columns: Iterable[wal2json.Column]) -> wal2json.Column | None:
    for column in columns:
        if column.name == name:
            return column
    return None


def plan(source: Source, table: SourceTable, relation: Relation) -> TablePlan:
    """Plan a table by the settings and its present shape. Raises ConfigInvalid when a key column must not leave."""
    empty = TablePlan(
        name=relation.name,
        topic=table_topic(source.name, *relation.name),
        title=str(relation.name),
        source_tail=b'"schema":%b,"table":%b' % (_json(relation.name.schema), _json(relation.name.table)),
        columns={},
        key=(),
        relation=relation,
        table=table,
        hash_key=source.hash_key.get_secret_value().encode() if source.hash_key else b"",
    )
    return empty.with_shape(relation)


def _columns(columns: Sequence[Column], table: SourceTable, hash_key: bytes) -> dict[str, _Column]:
    planned = {}
    for column in columns:
        how = treatment(table, column.name)
        label = None if how is Treatment.DROP else _json(column.name) + b":"
        key_label = None if how is Treatment.MASK else label
        plain = codec(column.base_type)
        rendered = plain if column.base_type == column.type else of_domain(plain)
        planned[column.name] = _Column(column.type, label, key_label, guard(rendered, how, hash_key))
    return planned


def _secret_key(table: TableName, column: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"the key column {column} of {table} looks secret, is excluded or masked, but a record needs its key",
        hint=f'Let it through with allow = ["{column}"], or send it as hash = ["{column}"], under source.tables',
    )


def _fails(render: Callable[[Any], bytes], value: Any) -> bool:
    try:
        render(value)
    except FAULTS:
        return True
    return False
