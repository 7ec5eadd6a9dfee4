"""Cuts the values out of a line whose shape is known, without parsing it: most lines of most tables. Pure.

wal2json writes a column as `{"name":"email","type":"text","value":...}`. A quotation mark inside a JSON string has a
backslash before it, so what stands between two values can stand in none: a line that splits there into one piece a
column, each of which begins with its column's name and type, has this shape and no other. What differs in anything is
left to the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import msgspec

from cdc.values import FAULTS, FromToken

_json = msgspec.json.encode
_NULL = b"null"
_NEXT = b'},{"name":'
_COLUMNS = b',"columns":[{"name":'
_IDENTITY = b'}],"identity":[{"name":'
_KEY = b'}],"pk":[{"name":'
_LSN = b',"lsn":"'
_INSERT, _UPDATE = b'{"action":"I"', b'{"action":"U"'
#: The shortest that stands before them: an action, a transaction's id, a timestamp; and an LSN.
_LSN_AT, _TABLE_AT = 50, 60


class Written(NamedTuple):
    """A column as lines name it and as rows are written."""

    name: str
    type: str
    #: `"name":`, or None where the column does not leave the reader.
    label: bytes | None
    from_token: FromToken


#: An insert or update: its op, LSN, key, old row, and the new row's values as `Cutter.after` takes them.
Cut = tuple[str, int, bytes, bytes, list[bytes]]


def table_of(schema: str, table: str) -> bytes:
    """Write a table as it stands in its lines."""
    return b',"schema":%b,"table":%b' % (_json(schema), _json(table))


def table_in(line: bytes) -> bytes:
    """Give the part of a line that names its table; empty where it has no columns."""
    start = line.find(b',"schema":', _TABLE_AT)
    return line[start : line.find(_COLUMNS, start)] if start > 0 else b""


class Cutter:
    """The lines of one table with all of its columns, and how their rows and keys are written.

    `primary` are the key's columns in the table's order, as lines list them; `key` are the same in the key's own.
    """

    def __init__(self, columns: Sequence[Written], primary: Sequence[str], key: Sequence[str]) -> None:
        places = {column.name: place for place, column in enumerate(columns)}
        self._heads = [b'%b,"type":%b,"value":' % (_json(column.name), _json(column.type)) for column in columns]
        self._fixed = sum(map(len, self._heads)) + len(_NEXT) * (len(columns) - 1)
        self._primary = [places[name] for name in primary]
        self._rendered = [(place, c.from_token) for place, c in enumerate(columns) if c.from_token and c.label]
        #: Writes the new row, out of all of its values: those that stay home are cut to nothing.
        self.after = object_template([(column.label, b"%b" if column.label else b"%.0b") for column in columns])
        self._key = object_template([(columns[places[name]].label, b"%b") for name in key])
        self._key_of = itemgetter(*(places[name] for name in key))
        listed = (b'%b,"type":%b' % (_json(columns[at].name), _json(columns[at].type)) for at in self._primary)
        self._tail = _KEY + _NEXT.join(listed) + b"}]}"

    def cut(self, line: bytes) -> Cut | None:
        """Render a line; None when it has not this shape, changes a key or holds a value that can't be written."""
        if not line.endswith(self._tail) or not _is_text(line):
            return None
        lsn_at = line.find(_LSN, _LSN_AT) + len(_LSN)
        high, _, low = line[lsn_at : line.find(b'"', lsn_at)].partition(b"/")
        columns = line[line.find(_COLUMNS, lsn_at) + len(_COLUMNS) : -len(self._tail)]
        try:
            lsn = int(high, 16) << 32 | int(low, 16)
            if line.startswith(_INSERT):
                return self._insert(lsn, columns)
            return self._update(lsn, *columns.partition(_IDENTITY)) if line.startswith(_UPDATE) else None
        except FAULTS:
            return None

    def _insert(self, lsn: int, columns: bytes) -> Cut | None:
        new = self._tokens(columns)
        if new is None:
            return None
        self._render(new)
        return "c", lsn, self._key % self._key_of(new), _NULL, new

    def _update(self, lsn: int, columns: bytes, identity: bytes, older: bytes) -> Cut | None:
        new = self._tokens(columns)
        if new is None or not identity:
            return None
        before = self._old(older, new)
        if before is None:
            return None
        self._render(new)
        return "u", lsn, self._key % self._key_of(new), before, new

    def _old(self, older: bytes, new: Sequence[bytes]) -> bytes | None:
        """Write the old row, null where the line has only its key; None when the key changed."""
        if older == _NEXT.join([self._heads[at] + new[at] for at in self._primary]):
            return _NULL
        old = self._tokens(older)
        if old is None or any(old[at] != new[at] for at in self._primary):
            return None
        self._render(old)
        return self.after % tuple(old)

    def _tokens(self, columns: bytes) -> list[bytes] | None:
        pieces = columns.split(_NEXT)
        if len(pieces) != len(self._heads):
            return None
        tokens = list(map(bytes.removeprefix, pieces, self._heads))
        # A piece with another head stays as long as it was.
        return tokens if len(b"".join(tokens)) == len(columns) - self._fixed else None

    def _render(self, tokens: list[bytes]) -> None:
        for place, from_token in self._rendered:
            token = tokens[place]
            if token != _NULL and from_token is not None:
                tokens[place] = from_token(token)


def _is_text(line: bytes) -> bool:
    """Tell whether a line is UTF-8: a database of another encoding gives bytes that no consumer could read."""
    if line.isascii():
        return True
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def object_template(columns: Sequence[tuple[bytes | None, bytes]]) -> bytes:
    """Write the template of a JSON object: what stands before each value, and what takes it."""
    template, comma = b"{", b""
    for label, value in columns:
        if label:
            template += comma + label.replace(b"%", b"%%")
            comma = b","
        template += value
    return template + b"}"
