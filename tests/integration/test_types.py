"""A row is the same whether it comes from the snapshot or from the stream, whatever its types are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'very "happy"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN price AS numeric(10,2);
CREATE DOMAIN yes AS boolean;
CREATE DOMAIN blob AS bytea;
CREATE DOMAIN words AS text[];
CREATE DOMAIN small_price AS price CHECK (VALUE < 100);
"""

#: column -> (type, literals); each literal makes a row.
COLUMNS = {
    "i2": ("smallint", ["-32768"]),
    "i8": ("bigint", ["9223372036854775807"]),
    "b": ("boolean", ["true", "false"]),
    "n": ("numeric", ["0.10", "12345678901234567890.0123456789", "-1e-20"]),
    "f4": ("real", ["3.4028235e38", "-0.1", "16777216"]),
    "f8": ("double precision", ["1e300", "5e-324", "-0.1"]),
    "t": ("text", ["", "tab\there", "new\nline", 'q"uote \\ back', "é中😀", "\\N", "\\."]),
    "c": ("char(5)", ["ab"]),
    "v": ("varchar", ["NULL", "null"]),
    "d": ("date", ["2024-02-29", "infinity", "0044-03-15 BC", "10000-01-01"]),
    "ts": ("timestamp", ["2024-01-02 03:04:05.6", "-infinity", "2024-01-02 00:00:00"]),
    "tz": ("timestamptz", ["2024-01-02 03:04:05.678901+02", "infinity", "2024-01-02 00:00:00+05:30"]),
    "tz3": ("timestamptz(3)", ["2024-01-02 03:04:05.6789+02"]),
    "ti": ("time", ["24:00:00", "12:34:56.789"]),
    "tt": ("timetz", ["12:34:56.789+02", "24:00:00+00"]),
    "iv": ("interval", ["1 year 2 mons 3 days 04:05:06.789", "-1 day", "0"]),
    "u": ("uuid", ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]),
    "j": ("json", ['{"a": [1, null, "\\u00e9"], "a": 1.50}']),
    "jb": ("jsonb", ['{"b": 12345678901234567890.1, "a": "\\n"}']),
    "ip": ("inet", ["::1/64", "192.168.0.1"]),
    "by": ("bytea", ["", "\\xdeadbeef00ff"]),
    "m": ("mood", ['very "happy"']),
    "bit1": ("bit(1)", ["1", "0"]),
    "bits": ("bit varying", ["10101", ""]),
    "ta": ("text[]", ["{}", '{a,"b c",NULL,"NULL","q\\"u","{}"}', "{{a,b},{c,d}}"]),
    "na": ("numeric[]", ["{1.50,NULL}"]),
    "ba": ("bytea[]", ['{"\\\\x01ff"}']),
    "ma": ("mood[]", ['{sad,"very \\"happy\\""}']),
    "bo": ("boolean[]", ["{t,f,NULL}"]),
    "dom": ("posint", ["3"]),
    "dp": ("price", ["1.50"]),
    "sp": ("small_price", ["99.99"]),
    "dy": ("yes", ["t", "f"]),
    "db": ("blob", ["\\x01ff"]),
    "dw": ("words", ["{a,b}"]),
    "co": ("pair", ['(1,"a b")']),
    "r": ("int4range", ["[1,10)", "empty"]),
    "mac": ("macaddr", ["08:00:2b:01:02:03"]),
    "money": ("money", ["12.34"]),
    "x": ("xml", ["<a>&amp;</a>"]),
    "p": ("point", ["(1,2)"]),
}


@pytest.fixture
def deployment(tmp_path: Path, database: Database, kafka: KafkaServer, name: str) -> Iterator[Deployment]:
    columns = ", ".join(f"{column} {type_}" for column, (type_, _) in COLUMNS.items())
    database.execute(f"{TYPES} CREATE TABLE users (id int PRIMARY KEY, {columns})")
    with Deployment(tmp_path / "d", database, kafka, name) as made:
        yield made


def insert(database: Database, first: int) -> int:
    """Insert a row for each literal, and one of nulls."""
    rows = [(column, literal) for column, (_, literals) in COLUMNS.items() for literal in literals]
    with closing(database.connect()) as session, session.cursor() as cursor:
        for number, (column, literal) in enumerate(rows):
            query = f"INSERT INTO users (id, {column}) VALUES (%s, %s)"  # noqa: S608  ours
            cursor.execute(query, (first + number, literal))
        cursor.execute("INSERT INTO users (id) VALUES (%s)", (first + len(rows),))
    return len(rows) + 1


def test_every_value_is_the_same_from_the_snapshot_and_from_the_stream(deployment: Deployment) -> None:
    count = insert(deployment.database, 1)
    deployment.capture()
    insert(deployment.database, 1001)
    deployment.until_caught_up()
    rows = {record.value["after"]["id"]: record.value for record in deployment.events() if record.value}
    assert len(rows) == 2 * count
    different = []
    for number in range(1, count + 1):
        snapshot, stream = rows[number], rows[1000 + number]
        assert (snapshot["op"], stream["op"]) == ("r", "c")
        left, right = ({**row["after"], "id": None} for row in (snapshot, stream))
        different += [(column, left[column], right[column]) for column in left if left[column] != right[column]]
    assert different == []


def test_a_domain_is_written_as_what_it_is_made_of(deployment: Deployment) -> None:
    deployment.capture()
    query = "INSERT INTO users (id, dom, dp, dy, dw) VALUES (1, 3, 1.50, true, '{a}')"
    deployment.database.execute(query)
    deployment.until_caught_up()
    (event,) = deployment.events()
    assert event.value
    row = event.value["after"]
    assert (row["dom"], row["dp"], row["dy"], row["dw"]) == (3, "1.50", True, ["a"])


def test_without_a_snapshot_history_stays_where_it_is(deployment: Deployment) -> None:
    deployment.database.execute("INSERT INTO users (id) VALUES (1)")
    text = deployment.path.read_text()
    deployment.path.write_text(text.replace("[source]\n", '[source]\nsnapshot = "never"\n'))
    deployment.capture()
    deployment.database.execute("INSERT INTO users (id) VALUES (2)")
    deployment.until_caught_up()
    assert [record.key for record in deployment.events()] == ['{"id":2}']
