"""The envelope is Debezium's: the same statements through both readers give the same records."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import audit
from tests.support.database import Database, fresh
from tests.support.deployment import Deployment, Record
from tests.support.servers import KafkaServer, PostgresServer

GOLDEN = Path(__file__).parent / "debezium"
TABLES = ["users", '"User"', "big", "full_t", "nopk", "part"]

#: What we write otherwise on purpose: (table, key, op, row, column) with None for any -> why.
MEANT: list[tuple[tuple[str | None, ...], str]] = [
    (("users", None, None, None, "password"), "what looks secret stays home"),
    (("users", None, "d", "before", None), "columns that are not in the key are null, not their default or empty"),
    (("users", '{"id":6}', "c", "after", None), "NULL over a column default stays null"),
    (("users", '{"id":1}', "u", "after", "plan"), "NULL over a column default stays null"),
    (("users", '{"id":1001}', "c", "after", "plan"), "NULL over a column default stays null"),
    (("users", '{"id":3}', "r", "after", None), "infinite dates and 24:00:00 are kept"),
    (("users", '{"id":11}', "c", "after", None), "infinite dates are kept; wal2json writes NaN as null"),
    (("users", '{"id":15}', "c", "after", "free_num"), "wal2json writes infinite numbers as null"),
    (("users", '{"id":16}', "c", "after", "t"), "24:00:00 is kept"),
    (("users", '{"id":14}', "c", "after", "f4"), "PostgreSQL's shortest text of the float"),
]


@pytest.fixture(scope="module")
def records(
    postgres: PostgresServer, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[Record]]]:
    """Run setup and statements through capture; every topic's records."""
    name = "tgolden"
    with (
        fresh(postgres, name) as database,
        Deployment(tmp_path_factory.mktemp("golden") / "d", database, kafka, name, tables=TABLES) as deployment,
    ):
        database.execute(re.sub(r"CREATE PUBLICATION.*?;", "", (GOLDEN / "setup.sql").read_text(), flags=re.DOTALL))
        reader = deployment.capture()
        _execute(database, (GOLDEN / "statements.sql").read_text())
        deployment.until_caught_up()
        yield {topic: deployment.records(topic) for topic in [*golden(), "message"]}
        assert reader.stop() == 0


def golden() -> dict[str, list[dict[str, Any]]]:
    """Debezium's records by topic (without its prefix)."""
    by_topic: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in (GOLDEN / "output.jsonl").read_bytes().split(b"\n")[:-1]:  # str.splitlines would cut at U+2028
        record = json.loads(line)
        by_topic[record["topic"].removeprefix("dbzB.")].append(record)
    return by_topic


def _execute(database: Database, script: str) -> None:
    """Run the script statement by statement, as psql does; COPY has its rows inline."""
    with closing(database.connect()) as session, session.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        for part in re.split(r"^-- \d\d.*$", script, flags=re.MULTILINE)[1:]:
            if copy := re.search(r"(COPY .*?);\n(.*?)\\\.", part, re.DOTALL):
                cursor.copy_expert(copy[1].replace("stdin", "STDIN"), io.StringIO(copy[2]))
            else:
                for statement in re.split(r";\s*$|;(?= ROLLBACK| COMMIT)", part.strip(), flags=re.MULTILINE):
                    if statement.strip():
                        cursor.execute(statement)


def by_key(records: list[tuple[str | None, Any]]) -> dict[str | None, list[Any]]:
    grouped: dict[str | None, list[Any]] = defaultdict(list)
    for key, record in records:
        grouped[key].append(record)
    return grouped


def pairs(records: dict[str, list[Record]], topic: str) -> Iterator[tuple[str | None, dict[str, Any], Record]]:
    """Pair Debezium's records with ours, key by key, in order."""
    theirs = by_key([(record["key"], record) for record in golden()[topic]])
    ours = by_key([(record.key, record) for record in sorted(records[topic], key=lambda r: (r.partition, r.offset))])
    assert theirs.keys() == ours.keys()
    for key, expected in theirs.items():
        assert len(expected) == len(ours[key]), key
        if key is None:  # records without key are in any partition: order them by their place in the WAL
            ours[key].sort(key=lambda record: record.event_id.replace("snapshot", "!"))
        yield from ((key, record, ours[key][place]) for place, record in enumerate(expected))


TOPICS = ["public.users", "public.User", "public.big", "public.full_t", "public.nopk", "public.part", "message"]


@pytest.mark.parametrize("topic", TOPICS)
def test_operations_keys_tombstones_and_headers_are_the_same(records: dict[str, list[Record]], topic: str) -> None:
    for key, theirs, ours in pairs(records, topic):
        value = json.loads(theirs["value"]) if theirs["value"] else None
        assert ours.op == (value["op"] if value else "tombstone"), key
        expected = {name: text for name, text in theirs["headers"] if "context" not in name}
        assert {name: text for name, text in ours.headers.items() if not name.startswith("pgherald")} == expected


@pytest.mark.parametrize("topic", TOPICS)
def test_the_envelope_has_the_same_fields_in_the_same_order(records: dict[str, list[Record]], topic: str) -> None:
    for _, theirs, ours in pairs(records, topic):
        if ours.value is None:
            continue
        value = json.loads(theirs["value"])
        assert list(ours.value) == list(value)
        assert list(ours.value["source"]) == list(value["source"])
        for field in ("connector", "snapshot", "schema", "table", "xmin", "origin"):
            if field != "snapshot" or value["op"] != "r":  # the order of the tables differs, and with it first and last
                assert ours.value["source"][field] == value["source"][field]
        numbers = ("total_order", "data_collection_order")
        assert [(ours.value["transaction"] or {}).get(n) for n in numbers] == [
            (value["transaction"] or {}).get(n) for n in numbers
        ]


@pytest.mark.parametrize("topic", TOPICS[:-1])
def test_rows_are_the_same_but_for_what_is_meant(records: dict[str, list[Record]], topic: str) -> None:
    unmeant = []
    for key, theirs, ours in pairs(records, topic):
        if ours.value is None:
            continue
        value = json.loads(theirs["value"])
        for row in ("before", "after"):
            left, right = value[row] or {}, ours.value[row] or {}
            assert [name for name in left if name != "password"] == list(right)
            for column in left:
                place = (topic.removeprefix("public."), key, value["op"], row, column)
                if left[column] != right.get(column, ...) and not _is_meant(place):
                    unmeant.append((place, left[column], right.get(column)))
    assert unmeant == []


@pytest.mark.parametrize("topic", TOPICS)
def test_transaction_ids_and_sequences_name_the_same_places_of_the_wal(
    records: dict[str, list[Record]], topic: str
) -> None:
    for key, theirs, ours in pairs(records, topic):
        if ours.value is not None:
            assert _names(ours.value) == _names(json.loads(theirs["value"])), key


def test_sequences_put_all_events_in_the_order_of_the_wal(records: dict[str, list[Record]]) -> None:
    everything = [record for topic in TOPICS for record in records[topic]]
    told = audit.sequences(everything)
    assert told == sorted(told)
    assert all(previous for previous, _ in told[1:])  # before the first one there may be another session's commit
    assert {json.loads(r.value["source"]["sequence"])[0] for r in everything if r.value and r.op == "r"} == {None}
    (_, lsn), (previous, _) = audit.sequences(records["message"])[1:]
    assert previous >= lsn  # one that stands alone is an end too


def _names(value: dict[str, Any]) -> tuple[bool, ...]:
    """Tell of an envelope what it says of its own LSNs and ids, which are others in each run."""
    source, transaction = value["source"], value["transaction"]
    previous, lsn = json.loads(source["sequence"])
    return (
        source["txId"] is None,
        previous is None or int(previous) <= source["lsn"],
        lsn == str(source["lsn"]),
        transaction is None,
        transaction is not None and transaction["id"] == f"{source['txId']}:{source['lsn']}",
        source["ts_us"] // 1000 == source["ts_ms"] and source["ts_us"] * 1000 == source["ts_ns"],
    )


def _is_meant(place: tuple[str | None, ...]) -> bool:
    return any(all(wanted in (None, given) for wanted, given in zip(rule, place, strict=True)) for rule, _ in MEANT)


def test_messages_carry_the_same_content(records: dict[str, list[Record]]) -> None:
    for _, theirs, ours in pairs(records, "message"):
        assert ours.value
        assert ours.value["message"] == json.loads(theirs["value"])["message"]


def test_nothing_is_compared_in_vain(records: dict[str, list[Record]]) -> None:
    assert sum(len(records[topic]) for topic in TOPICS) == 89
