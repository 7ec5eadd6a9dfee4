"""Cuts the values out of a line whose shape is known, without parsing it: most lines of most tables. Pure.

wal2json writes a column as `{"name":"email","type":"text","value":...}`. A quotation mark inside a JSON string has a
backslash before it, so what stands between two values can stand in none: a line that splits there into one piece a
column, each of which begins with its column's name and type, has this shape and no other. What differs in anything is
left to the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from cdc.template import Template, object_of, object_template
from cdc.values import FAULTS, FromToken

_json = msgspec.json.encode
_NULL: Final = b"null"
_NEXT: Final = b'},{"name":'
_IDENTITY: Final = b'}],"identity":[{"name":'
_KEY: Final = b'}],"pk":[{"name":'

#: Where a line names its action.
ACTION_AT: Final = 11
INSERT: Final = b"I"
UPDATE: Final = b"U"
#: What stands between a line's table and its columns.
COLUMNS: Final = b',"columns":[{"name":'


class Written(NamedTuple):
    """A column as lines name it and as rows are written."""

    name: str
    type: str
    #: `"name":`, or None where the column does not leave the reader.
    label: bytes | None
    from_token: FromToken


#: The key of an insert or update, its old row, and the new row's values as `Cutter.after` takes them.
Cut = tuple[bytes, bytes, list[bytes]]


def table_of(schema: str, table: str) -> bytes:
    """Write a table as it stands in its lines, before COLUMNS."""
    return b',"schema":%b,"table":%b' % (_json(schema), _json(table))


class Cutter:
    """The lines of one table with all of its columns, and how their rows and keys are written.

    `primary` are the key's columns in the table's order, as lines list them; `key` are the same in the key's own.
    """

    def __init__(self, columns: Sequence[Written], primary: Sequence[str], key: Sequence[str]) -> None:
        places = {column.name: place for place, column in enumerate(columns)}
        self._heads = [b'%b,"type":%b,"value":' % (_json(column.name), _json(column.type)) for column in columns]
        self._primary = [places[name] for name in primary]
        self._rendered = [(place, c.from_token) for place, c in enumerate(columns) if c.from_token and c.label]
        self._at_home = [place for place, column in enumerate(columns) if not column.label]
        #: Takes all of a row's values: those that stay home are cut to nothing.
        self.after = object_template([(column.label, b"%b") for column in columns])
        self._row = Template(self.after)
        #: A column without a label is in no key: the settings are refused.
        self._key = [(columns[places[name]].label or b"", places[name]) for name in key]
        listed = (b'%b,"type":%b' % (_json(columns[at].name), _json(columns[at].type)) for at in self._primary)
        self._tail = _KEY + _NEXT.join(listed) + b"}]}"

    def cut(self, action: bytes, line: bytes, at: int) -> Cut | None:
        """Render an insert or update; `at` is where its columns begin, behind COLUMNS.

        None when it has not this shape, changes a key or holds a value that can't be written.
        """
        if not line.endswith(self._tail) or not (line.isascii() or _is_text(line)):
            return None
        columns, older = line[at : -len(self._tail)], b""
        if action == UPDATE:
            columns, _, older = columns.partition(_IDENTITY)
        new = self._tokens(columns)
        if new is None:
            return None
        try:
            before = _NULL if action == INSERT else self._old(older, new)
            self._render(new)
        except FAULTS:
            return None
        return None if before is None else (object_of(self._key, new), before, new)

    def _old(self, older: bytes, new: list[bytes]) -> bytes | None:
        """Write the old row, null where the line has only its key; None when it has neither or the key changed."""
        if older == _NEXT.join([self._heads[at] + new[at] for at in self._primary]):
            return _NULL
        old = self._tokens(older)
        if old is None or any(old[at] != new[at] for at in self._primary):
            return None
        self._render(old)
        return self._row.fill(old)

    def _tokens(self, columns: bytes) -> list[bytes] | None:
        pieces = columns.split(_NEXT)
        if len(pieces) != len(self._heads):
            return None
        for place, head in enumerate(self._heads):
            piece = pieces[place]
            if not piece.startswith(head):
                return None
            pieces[place] = piece[len(head) :]
        return pieces

    def _render(self, tokens: list[bytes]) -> None:
        for place, from_token in self._rendered:
            token = tokens[place]
            if token != _NULL:
                tokens[place] = from_token(token)
        for place in self._at_home:
            tokens[place] = b""


def _is_text(line: bytes) -> bool:
    """Tell whether a line is UTF-8: a database of another encoding gives bytes that no consumer could read."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
