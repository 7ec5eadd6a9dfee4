"""COPY's text format: rows are found in its blocks, and come out the same whether they are copied or taken apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from cdc.copied import Blocks, CopiedRows, fields_of
from cdc.relation import Column, Relation
from cdc.rows import plan
from cdc.runtime.errors import ChangeUndecodable
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Source, SourceTable

NAME = TableName("app", "users")
TYPES = {
    "id": "bigint",
    "100%": "text",
    "e,mail": "citext",
    "created": "timestamp without time zone",
    "price": "numeric",
    "ratio": "double precision",
    "active": "boolean",
    "tags": "text[]",
}
#: What each value is in JSON; of the rest COPY's text is the value.
RENDERED: dict[str, Callable[[str], Any]] = {
    "id": int,
    "created": lambda text: text.replace(" ", "T") + "Z",
    "ratio": float,
    "active": lambda text: text == "t",
    "tags": lambda text: text[1:-1].split(",") if len(text) > 2 else [],
}

texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["\\N", "\\", '"', "\x00", "\x7f\x1f", "\u2028"]
)
rows = st.fixed_dictionaries(
    {
        "id": st.integers(0, 2**63 - 1).map(str),
        "100%": texts | st.none(),
        "e,mail": texts | st.none(),
        "created": st.datetimes().map(lambda at: at.isoformat(" ")) | st.none(),
        "price": st.decimals(-9999, 9999, places=2).map(str) | st.none(),
        "ratio": st.floats(-9999, 9999).map(str) | st.none(),
        "active": st.sampled_from(["t", "f", None]),
        "tags": st.lists(st.sampled_from(["a", "Zoë", "1"])).map(lambda tags: "{" + ",".join(tags) + "}") | st.none(),
    }
).map(lambda row: {name: row[name] for name in TYPES})


def copied(types: dict[str, str], key: tuple[str, ...] = (), **how: list[str]) -> CopiedRows:
    source = Source(name="shop", dsn=SecretStr("x"), tables=[SourceTable(name=NAME, **how)])
    columns = tuple(Column(name, type_, type_, toastable=False) for name, type_ in types.items())
    return CopiedRows(plan(source, source.tables[0], Relation(NAME, columns, key, "default", frozenset(key))))


def written(fields: list[str | None]) -> bytes:
    """Write a row as COPY does."""
    return "\t".join(map(_written, fields)).encode()


def _written(field: str | None) -> str:
    if field is None:
        return r"\N"
    for raw, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"), ("\b", "\\b"), ("\v", "\\v")):
        field = field.replace(raw, escaped)
    return field


@given(rows)
@example({**dict.fromkeys(TYPES, None), "id": "1"})
@example({**dict.fromkeys(TYPES, None), "id": "1", "100%": "\\N", "e,mail": '"\\N"'})
def test_a_row_is_the_same_whether_it_is_copied_or_taken_apart(row: dict[str, str | None]) -> None:
    found = copied(TYPES, ("e,mail", "id") if row["e,mail"] is not None else ("id",)).row(written(list(row.values())))
    expected: dict[str, Any] = {
        name: text if text is None else RENDERED.get(name, str)(text) for name, text in row.items()
    }
    assert list(json.loads(found.after).items()) == list(expected.items())
    key = {name: expected[name] for name in ("e,mail", "id") if name == "id" or row["e,mail"] is not None}
    assert list(json.loads(found.key or b"").items()) == list(key.items())
    assert found.place == tuple(row[name] for name in key)


@pytest.mark.parametrize("text", ["NaN", "Infinity"])
def test_what_json_has_no_number_for_is_a_string(text: str) -> None:
    assert json.loads(copied({"ratio": "real"}).row(text.encode()).after) == {"ratio": text}


def test_a_column_whose_name_looks_like_a_null_keeps_it() -> None:
    name = '"\\N"'
    assert json.loads(copied({name: "text", "b": "text"}).row(b"x\t\\N").after) == {name: "x", "b": None}


def test_of_a_table_whose_columns_all_stay_home_a_row_is_empty() -> None:
    found = copied({"password": "text"}).row(b"")
    assert (found.key, found.after, found.place) == (None, b"{}", ())


def test_a_row_that_is_no_utf8_is_a_fault_that_does_not_show_it() -> None:
    with pytest.raises(ChangeUndecodable, match=r"app\.users is not UTF8") as caught:
        copied({"id": "bigint", "name": "text"}).row(b"1\thidden\xff")
    assert "hidden" not in str(caught.value)
    assert caught.value.fields["length_bytes"] == 9


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


@given(
    st.lists(st.lists(st.none() | st.text(st.characters(codec="utf-8")), min_size=1), min_size=1),
    st.integers(1, 50),
)
def test_rows_come_through_whole_however_they_are_cut_into_blocks(rows: list[list[str | None]], block: int) -> None:
    text = b"".join(written(row) + b"\n" for row in rows)
    read: list[list[str | None]] = []
    blocks = Blocks(lambda line: read.append(fields_of(line.decode())))
    for start in range(0, len(text), block):
        blocks.write(text[start : start + block])
    assert read == rows
