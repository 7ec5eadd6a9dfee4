"""COPY's text format, and the markers of snapshot rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.snapshot import Lines, fields_of


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("1\ta@example.org", ["1", "a@example.org"]),
        (r"\N" + "\t", [None, ""]),
        (r"a\tb\nc\\d" + "\t" + r"\\N", ["a\tb\nc\\d", "\\N"]),
    ],
)
def test_a_line_of_copy_is_split_into_its_fields(line: str, fields: list[str | None]) -> None:
    assert fields_of(line) == fields


def _written(field: str | None) -> str:
    if field is None:
        return r"\N"
    for raw, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"), ("\b", "\\b"), ("\v", "\\v")):
        field = field.replace(raw, escaped)
    return field


@given(
    st.lists(st.lists(st.none() | st.text(st.characters(codec="utf-8")), min_size=1), min_size=1),
    st.integers(1, 50),
)
def test_rows_come_through_whole_however_they_are_cut_into_blocks(rows: list[list[str | None]], block: int) -> None:
    text = "".join("\t".join(map(_written, row)) + "\n" for row in rows).encode()
    read: list[list[str | None]] = []
    lines = Lines(read.append)
    for start in range(0, len(text), block):
        lines.write(text[start : start + block])
    assert read == rows
