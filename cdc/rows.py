"""The plan of one table: which columns go into its envelopes, how each is rendered, what the key is. Pure.

A plan fits the lines of one shape of the table; after DDL a new one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from cdc import wal2json
from cdc.contract.envelope import UNAVAILABLE
from cdc.contract.topics import table_topic
from cdc.privacy import Treatment, guard, treatment
from cdc.relation import Column, Relation
from cdc.runtime.errors import ChangeUndecodable, ConfigInvalid
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Source, SourceTable
from cdc.values import FAULTS, Codec, codec, of_domain
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
    toastable: bool


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
    full_identity: bool
    table: SourceTable
    hash_key: bytes

    def fits(self, change: RowChange) -> bool:
        """Tell whether a line has this shape: its columns are ours, and those it lacks may be unchanged TOAST."""
        given = change.columns or change.identity
        columns = self.columns
        for column in given:
            known = columns.get(column.name)
            if known is None or known.type != column.type:
                return False
        if len(given) == len(columns) or isinstance(change, Delete):
            return True
        if isinstance(change, Insert):
            return False
        present = {column.name for column in given}
        return all(known.toastable for name, known in columns.items() if name not in present)

    def as_in(self, change: RowChange) -> TablePlan:
        """Make the plan of a line that the catalog no longer knows: its own columns, and no others."""
        given = change.columns or change.identity
        known = self.columns
        columns = tuple(
            Column(
                column.name,
                column.type,
                column.type,
                column.name in known and known[column.name].toastable,
            )
            for column in given
        )
        return replace(self, columns=_columns(columns, self.table, self.hash_key))

    def rows(self, change: RowChange) -> tuple[bytes, bytes]:
        """Render before and after as JSON objects, or null."""
        if isinstance(change, Delete):
            return self.old_row(change), _NULL
        if isinstance(change, Insert):
            return _NULL, self._row(change.columns)
        full = self._is_full(change)
        after = self._row(change.columns, change.identity if full else ())
        return (self._row(change.identity) if full else _NULL), after

    def old_row(self, change: RowChange) -> bytes:
        """Render what is known of the old row: all of it, or the key with the other columns null."""
        return self._row(change.identity, absent=_NULL)

    def keys(self, change: RowChange) -> tuple[bytes | None, bytes | None]:
        """Render the row's key and the key it had before; None without a primary key.

        Raises ConfigInvalid when a key column must not leave: the key of an old line may be another than today's.
        """
        key = tuple(column.name for column in change.pk)
        if not key:
            return None, None
        old = self._key(key, change.identity)
        new = self._key(key, change.columns) if change.columns else old
        return new, old

    def written(self) -> list[str]:
        """Name the columns that leave the reader, in table order."""
        return [name for name, _ in self._written]

    def snapshot_row(self, row: Sequence[str | None]) -> tuple[bytes | None, bytes]:
        """Render the key and the row from the text of the `written` columns. Raises ChangeUndecodable."""
        try:
            parts = {
                name: column.label + (_NULL if text is None else column.codec.from_text(text))
                for (name, column), text in zip(self._written, row, strict=True)
                if column.label is not None
            }
        except FAULTS:
            raise self._unwritable_row(row) from None  # not `from` it: its text shows the value
        key = b"{" + b",".join(parts[name] for name in self.key) + b"}" if self.key else None
        return key, b"{" + b",".join(parts.values()) + b"}"

    def unwritable(self, change: RowChange) -> ChangeUndecodable:
        """Make the error of a line of which a value can't be rendered."""
        culprits = (c.name for c in (*change.columns, *change.identity) if _fails(self._value, c))
        return self._error(next(culprits, ""))

    def _unwritable_row(self, row: Sequence[str | None]) -> ChangeUndecodable:
        pairs = zip(self._written, row, strict=True)
        culprits = (name for (name, column), text in pairs if text and _fails(column.codec.from_text, text))
        text = "\t".join(field or "" for field in row).encode()
        return self._error(next(culprits, ""), **wal2json.fingerprint(text))

    def _error(self, column: str, **fields: object) -> ChangeUndecodable:
        return ChangeUndecodable(
            f"a value of {self.title}, column {column}, can't be written",
            hint=f'exclude = ["{column}"] under source.tables leaves it out',
            table=self.title,
            column=column,
            **fields,
        )

    @cached_property
    def _written(self) -> list[tuple[str, _Column]]:
        return [(name, column) for name, column in self.columns.items() if column.label is not None]

    def _is_full(self, change: RowChange) -> bool:
        """Tell whether the line holds the whole old row; a table of key columns only needs the catalog's word."""
        if len(change.identity) < len(self.columns):
            return False
        return self.full_identity or {c.name for c in change.identity} != {c.name for c in change.pk}

    def _key(self, key: tuple[str, ...], columns: Sequence[wal2json.Column]) -> bytes | None:
        given = {column.name: column for column in columns if column.name in key}
        if len(given) < len(key):
            return None
        parts = []
        for name in key:
            if (label := self.columns[name].key_label) is None:
                raise _secret_key(self.name, name)
            parts.append(label + self._value(given[name]))
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
        columns = self.columns
        parts = []
        if len(given) == len(columns):
            for column in given:
                _, label, _, (_, from_token, _), _ = columns[column.name]
                if label is not None:
                    token = bytes(column.value)
                    parts.append(label + (token if from_token is None or token == _NULL else from_token(token)))
            return b"{" + b",".join(parts) + b"}"
        values = {column.name: column for column in (*older, *given)}
        for name, (_, label, _, _, _) in columns.items():
            if label is not None:
                parts.append(label + (self._value(values[name]) if name in values else absent))
        return b"{" + b",".join(parts) + b"}"


def plan(source: Source, table: SourceTable, relation: Relation) -> TablePlan:
    """Plan a table by the settings and its present shape. Raises ConfigInvalid when a key column must not leave."""
    hash_key = source.hash_key.get_secret_value().encode() if source.hash_key else b""
    columns = _columns(relation.columns, table, hash_key)
    for name in relation.key:
        if columns[name].key_label is None:
            raise _secret_key(relation.name, name)
    return TablePlan(
        name=relation.name,
        topic=table_topic(source.name, *relation.name),
        title=str(relation.name),
        source_tail=b'"schema":%b,"table":%b' % (_json(relation.name.schema), _json(relation.name.table)),
        columns=columns,
        key=relation.key,
        full_identity=relation.full_identity,
        table=table,
        hash_key=hash_key,
    )


def _columns(columns: Sequence[Column], table: SourceTable, hash_key: bytes) -> dict[str, _Column]:
    planned = {}
    for column in columns:
        how = treatment(table, column.name)
        label = None if how is Treatment.DROP else _json(column.name) + b":"
        key_label = None if how is Treatment.MASK else label
        plain = codec(column.base_type)
        rendered = plain if column.base_type == column.type else of_domain(plain)
        planned[column.name] = _Column(column.type, label, key_label, guard(rendered, how, hash_key), column.toastable)
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
