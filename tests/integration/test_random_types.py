"""Random rows of every type: the snapshot's value is the stream's, whatever it is."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.database import fresh
from tests.support.rendering import Renderer, renderer
from tests.support.servers import PostgresServer

SCHEMA = """
CREATE EXTENSION hstore; CREATE EXTENSION citext;
CREATE SCHEMA "My Schema";
CREATE TYPE "My Schema"."Mo od" AS ENUM ('sad', 'very "happy"', 'so, so');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN price AS numeric(10,2); CREATE DOMAIN yes AS boolean; CREATE DOMAIN blob AS bytea;
CREATE DOMAIN words AS text[]; CREATE DOMAIN "My Schema".cheap AS price CHECK (VALUE < 100);
"""

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
digits = st.text(string.digits, min_size=1, max_size=30)
sign = st.sampled_from(["", "-"])
int4 = st.integers(-(2**31), 2**31 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
float4 = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
numeric = st.builds("{}{}.{}".format, sign, digits, digits)
clock = st.builds("{:02d}:{:02d}:{:02d}.{:06d}".format, *map(st.integers, [0] * 4, [23, 59, 59, 999999]))
zone = st.builds("{}{:02d}:{:02d}:{:02d}".format, st.sampled_from("+-"), *map(st.integers, [0] * 3, [15, 59, 59]))
month_day = st.builds("{:02d}-{:02d}".format, st.integers(1, 12), st.integers(1, 28))
day = st.builds("{:04d}-{}{}".format, st.integers(1, 4000), month_day, st.sampled_from(["", " BC"]))
late_day = st.builds("{}-{}".format, st.integers(10000, 290000), month_day)
dates = day | late_day | st.sampled_from(["infinity", "-infinity"])
era = st.sampled_from(["", " BC"])
stamp = st.builds("{:04d}-{} {}{}".format, st.integers(1, 4000), month_day, clock, era) | st.builds(
    "{} {}".format, late_day, clock
)
stamps = stamp | st.sampled_from(["infinity", "-infinity"])
interval = st.builds(
    "{} months {} days {} microseconds".format,
    st.integers(-(10**6), 10**6),
    st.integers(-(10**6), 10**6),
    st.integers(-(10**15), 10**15),
)
octet = st.integers(0, 255)
ip = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
bits = st.text("01", min_size=1, max_size=70)
json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=5,
)
jsons = json_values.map(json.dumps).filter(lambda written: "\\u0000" not in written)
point = st.builds("({!r},{!r})".format, floats, floats)
points = st.lists(point, min_size=1, max_size=4)
spans = st.builds(
    "{}{},{}{}".format, st.sampled_from("[("), int4.map(lambda n: min(n, 0)), st.integers(1, 99), st.sampled_from("])")
)
mood = st.sampled_from(["sad", 'very "happy"', "so, so"])


def quoted(value: str | None) -> str:
    return "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def arrays(of: st.SearchStrategy[Any], separator: str = ",") -> st.SearchStrategy[str]:
    """Write arrays of one dimension, of two, and with lower bounds of their own."""
    elements = st.lists(st.none() | of.map(str), min_size=1, max_size=3)
    flat = elements.map(lambda found: "{" + separator.join(map(quoted, found)) + "}")
    nested = flat.map(lambda found: "{" + found + separator + found + "}")
    bounded = of.map(lambda found: "[-7:-7]={" + quoted(str(found)) + "}")
    return st.just("{}") | flat | nested | bounded


hstore = st.dictionaries(text, st.none() | text, max_size=20).map(
    lambda found: ",".join(f"{quoted(key)}=>{quoted(value)}" for key, value in found.items())
)

#: type -> literals of it.
TYPES: dict[str, st.SearchStrategy[Any]] = {
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "integer": int4,
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "oid": st.integers(0, 2**32 - 1),
    "boolean": st.booleans(),
    "real": float4,
    "double precision": floats,
    "numeric": numeric,
    "numeric(60,5)": numeric,
    "money": st.integers(-(10**15), 10**15).map(lambda cents: f"{cents / 100:.2f}"),
    "text": text,
    "varchar(20)": text,
    "char(30)": text.filter(lambda found: found == found.rstrip(" ")),
    "name": st.text(string.ascii_letters + '" ', max_size=20),
    '"char"': st.text(string.ascii_letters, max_size=1),
    "citext": text,
    "bytea": st.binary(max_size=20).map(lambda found: "\\x" + found.hex()),
    "bit(1)": st.sampled_from("01"),
    "bit(8)": st.text("01", min_size=8, max_size=8),
    "varbit": bits,
    "date": dates,
    "timestamp": stamps,
    "timestamp(3)": stamp,
    "timestamptz": stamps,
    "timestamptz(0)": stamp,
    "time": clock | st.just("24:00:00"),
    "time(2)": clock,
    "timetz": st.builds("{}{}".format, clock | st.just("24:00:00"), zone),
    "interval": interval,
    "interval day to second(2)": interval,
    "uuid": st.uuids(),
    "json": jsons,
    "jsonb": jsons,
    "xml": st.text(string.ascii_letters + "é ", max_size=9).map("<a b='1'>{}</a>".format),
    "inet": st.builds("{}/{}".format, ip, st.integers(0, 32)),
    "cidr": ip,
    "macaddr": st.binary(min_size=6, max_size=6).map(bytes.hex),
    "macaddr8": st.binary(min_size=8, max_size=8).map(bytes.hex),
    "pg_lsn": st.builds("{:X}/{:X}".format, *[st.integers(0, 2**32 - 1)] * 2),
    "tsvector": st.lists(text.map(lambda found: "'" + found.replace("\\", "").replace("'", "''") + "'"), max_size=3)
    .map(" ".join)
    .filter(lambda found: "''" not in found),
    "point": point,
    "box": st.builds("{},{}".format, point, point),
    "lseg": st.builds("[{},{}]".format, point, point),
    "path": points.map(",".join).map("[{}]".format) | points.map(",".join).map("({})".format),
    "polygon": points.map(",".join).map("({})".format),
    "circle": st.builds("<{},{!r}>".format, point, floats.map(abs)),
    "int4range": spans | st.just("empty"),
    "numrange": spans,
    "int4multirange": st.lists(spans, max_size=3).map(",".join).map("{{{}}}".format),
    "tstzrange": day.filter(lambda found: "BC" not in found).map("[{},infinity)".format),
    "hstore": hstore,
    '"My Schema"."Mo od"': mood,
    "pair": st.builds('({},"{}")'.format, int4, st.text(string.ascii_letters + ", ")),
    "price": st.decimals(-(10**7), 10**7, places=2),
    "yes": st.booleans(),
    "blob": st.binary(max_size=9).map(lambda found: "\\x" + found.hex()),
    "words": arrays(text),
    '"My Schema".cheap': st.decimals(0, 99, places=2),
}
ARRAYS = {f"{name}[]": arrays(of, ";" if name == "box" else ",") for name, of in TYPES.items() if name != "words"}
COLUMNS = {f"c{number}": name for number, name in enumerate([*TYPES, *ARRAYS])}
LITERALS = {**TYPES, **ARRAYS}
CELL = st.one_of([st.tuples(st.just(column), LITERALS[name].map(str)) for column, name in COLUMNS.items()])


@pytest.fixture(scope="module")
def made(postgres: PostgresServer) -> Iterator[Renderer]:
    columns = ", ".join(f"{column} {name}" for column, name in COLUMNS.items())
    with fresh(postgres, "trandom") as database:
        database.execute(f"{SCHEMA} CREATE TABLE random (id int PRIMARY KEY, {columns})")
        with renderer(database) as opened:
            yield opened


@pytest.mark.parametrize(
    "said", [{}, {"hash": list(COLUMNS)}, {"mask": list(COLUMNS)}], ids=["plain", "hashed", "masked"]
)
@given(cells=st.lists(CELL, min_size=20, max_size=40))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_is_the_same_from_the_snapshot_and_from_the_stream(
    made: Renderer, said: dict[str, list[str]], cells: list[tuple[str, str]]
) -> None:
    inserted = [{"id": number, column: literal} for number, (column, literal) in enumerate(cells)]
    for (column, literal), (copied, streamed) in zip(cells, made.both("random", inserted, **said), strict=True):
        assert copied == streamed, (COLUMNS[column], literal)
        assert copied[column] is not None
