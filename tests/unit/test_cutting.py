"""What is cut out of a line is what decoding it gives; what can't be cut is left to the decoder."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from cdc import wal2json
from cdc.contract.event import Event
from cdc.contract.lsn import format_lsn
from cdc.contract.position import Position
from cdc.relation import Column, Relation
from cdc.routing import Router
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Source, SourceTable
from tests.support.catalogs import SaidCatalog, captured

NAME = TableName("app", 'us"ers')
TYPES = {
    "id": "bigint",
    "100%": "text",
    "password": "text",
    "e,mail": "character varying(100)",
    "created": "timestamp without time zone",
    "price": "numeric(12,2)",
    "active": "boolean",
}
COLUMNS = tuple(Column(name, type_, type_, toastable=False) for name, type_ in TYPES.items())
BEGIN = b'{"action":"B","xid":7,"timestamp":"2026-11-23 20:19:52.461147+00","nextlsn":"0/1A2B400"}'
NOW_NS = 1_700_000_000_123_456_789
AT = Position(0x1A2B400, 1)
LSN = 0x1A2B3C8
#: What would look like the end of a value if it stood there without its backslashes.
HOSTILE = [
    '},{"name":"e,mail","type":"text","value":"x"',
    '"}],"pk":[{"name":',
    '"}],"identity":[{"name":',
    "\\",
    '\\"',
]

texts = st.text(max_size=20) | st.sampled_from(HOSTILE)
rows = st.fixed_dictionaries(
    {
        "id": st.integers(0, 9),
        "100%": texts | st.none(),
        "password": texts,
        "e,mail": texts | st.none(),
        "created": st.datetimes().map(lambda at: at.isoformat(" ")) | st.none(),
        "price": st.decimals(-9999, 9999, places=2).map(float) | st.none(),
        "active": st.booleans() | st.none(),
    }
).map(lambda row: {name: row[name] for name in TYPES})


def router(identity: str = "default", key: tuple[str, ...] = ("id",)) -> Router:
    source = Source(name="shop", dsn=SecretStr("x"), tables=[SourceTable(name=NAME)])
    relation = Relation(NAME, COLUMNS, key, identity, frozenset(key))  # type: ignore[arg-type]
    tables = captured(source, SaidCatalog(relation))
    made = Router("shop", "d%b", 1, tables, lambda _: None)
    begin = wal2json.decode(BEGIN)
    assert isinstance(begin, wal2json.Begin)
    made.begin(begin, AT.lsn)
    return made


def written(
    action: str, new: dict[str, Any], old: dict[str, Any] | None = None, key: tuple[str, ...] = ("id",)
) -> bytes:
    """Write a line as wal2json does."""
    line: dict[str, Any] = {
        "action": action,
        "xid": 7,
        "timestamp": "2026-11-23 20:19:52.461147+00",
        "lsn": format_lsn(LSN),
    }
    line |= {"schema": NAME.schema, "table": NAME.table, "columns": _columns(new)}
    if old is not None:
        line["identity"] = _columns(old)
    line["pk"] = [{"name": name, "type": TYPES[name]} for name in TYPES if name in key]
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode()


def _columns(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "type": TYPES.get(name, "text"), "value": value} for name, value in row.items()]


def both(line: bytes, **how: Any) -> tuple[list[Any], list[Any]]:
    """Give what is cut, if anything, and what is decoded, each by a router of its own."""
    cut = router(**how).quick(line, LSN, AT.index, NOW_NS)
    return _told([cut] if cut else []), _told(router(**how).events(wal2json.decode(line), AT, NOW_NS))


def _told(events: list[Event]) -> list[Any]:
    return [(e.topic, e.key, e.value, e.headers, e.table, e.op) for e in events]


@given(rows)
@example({**dict.fromkeys(TYPES), "id": 1, "password": HOSTILE[0], "100%": HOSTILE[1], "e,mail": HOSTILE[2]})
def test_an_insert_is_cut_as_it_is_decoded(row: dict[str, Any]) -> None:
    cut, decoded = both(written("I", row))
    assert cut == decoded


@given(rows, rows)
def test_an_update_is_cut_as_it_is_decoded_or_left_to_the_decoder(old: dict[str, Any], new: dict[str, Any]) -> None:
    for identity, known in (("default", {"id": old["id"]}), ("full", old)):
        cut, decoded = both(written("U", new, known), identity=identity)
        if old["id"] == new["id"]:
            assert cut == decoded
        else:
            assert not cut
            assert len(decoded) == 3


@given(rows)
def test_a_composite_key_keeps_its_own_order(row: dict[str, Any]) -> None:
    key = ("price", "id")
    cut, decoded = both(written("I", row, key=key), key=key)
    assert cut == decoded


ROW = {"id": 1, "100%": "a", "password": "b", "e,mail": "c", "created": None, "price": 1.5, "active": True}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(written("I", ROW | {"added": "x"}), id="a column more"),
        pytest.param(written("U", {k: v for k, v in ROW.items() if k != "100%"}, {"id": 1}), id="a column less"),
        pytest.param(written("I", dict(reversed(ROW.items()))), id="another order"),
        pytest.param(written("I", ROW).replace(b"numeric(12,2)", b"numeric(12,3)"), id="another type"),
        pytest.param(written("I", ROW).replace(b'"pk":[{"name":"id"', b'"pk":[{"name":"100%"'), id="another key"),
        pytest.param(written("U", ROW), id="an update without an identity"),
        pytest.param(written("I", ROW).replace(b"null", b'"noon"'), id="a value that can't be written"),
        pytest.param(written("I", ROW).replace(b'"a"', b'"\xff"'), id="a value that is no UTF-8"),
        pytest.param(written("D", {}, {"id": 1}), id="a delete"),
        pytest.param(written("I", ROW).replace(b'"table":"us\\"ers"', b'"table":"other"'), id="another table"),
        pytest.param(b'{"action":"C","xid":7,"nextlsn":"0/1A2B400"}', id="a commit"),
        pytest.param(b"\xff\x00", id="no line at all"),
    ],
)
def test_what_has_another_shape_is_left_to_the_decoder(line: bytes) -> None:
    assert router().quick(line, LSN, AT.index, NOW_NS) is None
