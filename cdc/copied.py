"""The rows that COPY gives in its text format, one after the other, rendered. Pure.

JSON writes most values as COPY does, between quotation marks or bare. A row that has nothing to escape is copied as it
stands; any other is taken apart field by field. Source: PostgreSQL's COPY, "Text Format".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from cdc.history import OldRow
from cdc.rows import TablePlan
from cdc.runtime.errors import ChangeUndecodable
from cdc.template import Template, object_of, object_template
from cdc.values import FAULTS
from cdc.wal2json import fingerprint

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NULL: Final = b"null"
#: What JSON escapes, but for the backslash that stands before each NULL; a tab stands between fields and in none.
_ESCAPED: Final = bytes([*range(0x09), *range(0x0A, 0x20)]) + b'"'


class Blocks:
    """The file that COPY writes to: cuts its blocks into rows, one by one in flat memory."""

    def __init__(self, on_row: Callable[[bytes], None]) -> None:
        self._on_row = on_row
        self._rest = b""

    def write(self, block: bytes) -> int:
        """Take a block, which PostgreSQL ends anywhere."""
        if not self._rest and block.find(b"\n") == len(block) - 1:  # it sends each row by itself
            self._on_row(block[:-1])
            return len(block)
        *rows, self._rest = (self._rest + block).split(b"\n")
        for row in rows:
            self._on_row(row)
        return len(block)


class CopiedRows:
    """Renders the rows of one table; COPY gives the columns that leave the reader, in the table's order."""

    def __init__(self, plan: TablePlan) -> None:
        self._plan = plan
        self._columns = [(name, plan.columns[name].label or b"", plan.columns[name].codec) for name in plan.written()]
        names = [name for name, *_ in self._columns]
        self._row = Template(object_template([(label, b"%b") for _, label, _ in self._columns]))
        self._key_places = [names.index(name) for name in plan.key]
        self._key = [(self._columns[at][1], at) for at in self._key_places]
        self._rendered = [(at, codec.copied) for at, (*_, codec) in enumerate(self._columns) if codec.copied]

    def row(self, line: bytes) -> OldRow:
        """Render a row. Raises ChangeUndecodable, which tells its length and hash, never what it says."""
        if not self._columns:
            return OldRow(None, b"{}", ())
        return self._copied(line) or self._taken_apart(line)

    def _copied(self, line: bytes) -> OldRow | None:
        """Render a row where it stands; None where there is something to escape, or that can't be written."""
        if line.count(b"\\") != line.count(rb"\N") or len(line.translate(None, _ESCAPED)) != len(line):
            return None
        values = (b'"%b"' % line.replace(b"\t", b'"\t"')).replace(rb'"\N"', _NULL).split(b"\t")
        try:
            line.decode()
            place = tuple([values[at][1:-1].decode() for at in self._key_places])
            for at, render in self._rendered:
                if values[at] != _NULL:
                    values[at] = render(values[at])
        except FAULTS:
            return None
        return self._written(values, place)

    def _taken_apart(self, line: bytes) -> OldRow:
        fields = fields_of(self._decoded(line))
        values = []
        for (name, _, codec), text in zip(self._columns, fields, strict=False):
            try:
                values.append(_NULL if text is None else codec.from_text(text))
            except FAULTS:  # its text shows the value
                raise self._plan.unwritable_value(name, **fingerprint(line)) from None
        return self._written(values, tuple([fields[at] or "" for at in self._key_places]))

    def _written(self, values: list[bytes], place: tuple[str, ...]) -> OldRow:
        key = object_of(self._key, values) if self._key else None
        return OldRow(key, self._row.fill(values), place)

    def _decoded(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:  # a database that is not UTF8: JSON can't hold it
            title = self._plan.title
            raise ChangeUndecodable(f"a row of {title} is not UTF8", table=title, **fingerprint(line)) from None


def fields_of(line: str) -> list[str | None]:
    """Split a row into its fields; None is NULL."""
    return [None if field == r"\N" else _unescape(field) for field in line.split("\t")]


def _unescape(field: str) -> str:
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), field) if "\\" in field else field
