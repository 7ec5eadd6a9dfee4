"""Partitioned tables are published as their root, whatever becomes of their parts while and before they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.contract.position import position_of
from tests.support.database import Database
from tests.support.deployment import Deployment, Record
from tests.support.servers import KafkaServer

TABLE = """
CREATE TABLE part (id int, d date, v text, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
CREATE TABLE part_23 PARTITION OF part FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE staging (id int, v text);
"""


@pytest.fixture
def deployment(tmp_path: Path, database: Database, kafka: KafkaServer, name: str) -> Iterator[Deployment]:
    database.execute(TABLE)
    with Deployment(tmp_path / "d", database, kafka, name, tables=["part"]) as made:
        yield made


def told(deployment: Deployment) -> list[tuple[str, str | None]]:
    """Give operation and `v` of every record, in commit order."""
    return [(record.op, _v(record)) for record in records(deployment)]


def records(deployment: Deployment) -> list[Record]:
    deployment.until_caught_up()
    return sorted(deployment.events("public.part"), key=lambda record: position_of(record.event_id))


def _v(record: Record) -> str | None:
    row = record.value and record.value["after"]
    return row["v"] if row else None


def test_rows_of_parts_come_as_the_roots_also_of_parts_that_came_while_it_runs(deployment: Deployment) -> None:
    execute = deployment.database.execute
    execute("INSERT INTO part VALUES (1, '2023-05-05', 'snapshot')")
    reader = deployment.capture()
    execute("INSERT INTO part VALUES (2, '2023-05-05', 'there')")
    # Made and filled at once, in another schema, of another order and with a column that was dropped.
    execute("""
        CREATE SCHEMA aside;
        CREATE TABLE aside.part_24 (gone int, v text, d date, id int, PRIMARY KEY (id, d));
        ALTER TABLE aside.part_24 DROP gone;
        INSERT INTO aside.part_24 VALUES ('before', '2024-01-01', 3);
        ALTER TABLE part ATTACH PARTITION aside.part_24 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        INSERT INTO part VALUES (4, '2024-05-05', 'attached')
    """)
    execute("""
        CREATE TABLE part_25 PARTITION OF part FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
        CREATE TABLE part_25_5 PARTITION OF part_25 FOR VALUES IN (5)
    """)
    execute("INSERT INTO part VALUES (5, '2025-05-05', 'below a part')")
    execute("INSERT INTO staging VALUES (6, 'not ours')")
    execute("UPDATE part SET d = '2023-06-06', v = 'moved' WHERE id = 5")
    execute("DELETE FROM part WHERE id = 4")
    execute("TRUNCATE part_23")
    execute("TRUNCATE part")
    assert told(deployment) == [
        ("r", "snapshot"),
        ("c", "there"),
        ("c", "before"),
        ("c", "attached"),
        ("c", "below a part"),
        *(("d", None), ("c", "moved")),
        *(("d", None), ("t", None)),
    ]
    found = records(deployment)
    assert {record.value["source"]["table"] for record in found if record.value} == {"part"}
    assert [record.key for record in found[:4]] == [
        f'{{"id":{id_},"d":"{day}Z"}}'
        for id_, day in ((1, "2023-05-05"), (2, "2023-05-05"), (3, "2024-01-01"), (4, "2024-05-05"))
    ]
    assert found[3].value
    assert list(found[3].value["after"]) == ["id", "d", "v"]
    assert reader.said("partition_truncated")


def test_a_table_that_is_attached_is_ours_from_then_on_and_one_that_is_detached_no_more(
    deployment: Deployment,
) -> None:
    execute = deployment.database.execute
    execute("CREATE TABLE later (LIKE part INCLUDING ALL)")
    deployment.capture()
    execute("INSERT INTO later VALUES (1, '2024-05-05', 'before')")
    deployment.until_caught_up()
    execute("ALTER TABLE part ATTACH PARTITION later FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')")
    execute("INSERT INTO later VALUES (2, '2024-05-05', 'attached')")
    deployment.until_caught_up()  # the catalog does not tell how a table was called before it was looked at
    execute("ALTER TABLE later RENAME TO renamed")
    execute("INSERT INTO part VALUES (3, '2024-05-05', 'renamed')")
    deployment.until_caught_up()
    execute("ALTER TABLE part DETACH PARTITION renamed")
    execute("INSERT INTO renamed VALUES (4, '2024-05-05', 'detached')")
    assert told(deployment) == [("c", "attached"), ("c", "renamed")]


@pytest.mark.parametrize("fate", ["DROP TABLE part_23", "ALTER TABLE part DETACH PARTITION part_23"])
def test_rows_of_a_part_that_went_while_the_reader_was_away_are_still_told(deployment: Deployment, fate: str) -> None:
    deployment.capture().stop()
    execute = deployment.database.execute
    execute("INSERT INTO part VALUES (1, '2023-05-05', 'last words')")
    execute(fate)
    deployment.capture()
    assert told(deployment) == [("c", "last words")]


@pytest.mark.parametrize("reader_is", ["behind", "down"])
def test_rows_of_a_part_that_was_attached_written_and_renamed_unseen_are_still_told(
    deployment: Deployment, reader_is: str
) -> None:
    reader = deployment.capture()
    if reader_is == "behind":
        reader.pause()
    else:
        assert reader.stop() == 0
    execute = deployment.database.execute
    execute("CREATE TABLE part_24 PARTITION OF part FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')")
    execute("INSERT INTO part VALUES (1, '2024-05-05', 'first name')")
    execute("ALTER TABLE part_24 RENAME TO part_2024")
    execute("INSERT INTO part VALUES (2, '2024-05-05', 'second name')")
    execute("CREATE TABLE gone (id int, d timestamp, v text, PRIMARY KEY (id, d))")
    execute("INSERT INTO gone VALUES (3, now(), 'not ours')")
    execute("DROP TABLE gone")
    if reader_is == "behind":
        reader.wake()
    else:
        deployment.capture()
    assert told(deployment) == [("c", "first name"), ("c", "second name")]


@pytest.mark.parametrize("fate", ["DROP TABLE part_24", "ALTER TABLE part DETACH PARTITION part_24"])
def test_rows_of_a_part_that_was_attached_written_and_went_unseen_stop_the_reader(
    deployment: Deployment, fate: str
) -> None:
    assert deployment.capture().stop() == 0
    execute = deployment.database.execute
    execute("INSERT INTO part VALUES (1, '2023-05-05', 'before')")
    execute("CREATE TABLE part_24 PARTITION OF part FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')")
    execute("INSERT INTO part VALUES (2, '2024-05-05', 'unseen')")
    execute("INSERT INTO part VALUES (3, '2024-05-05', 'unseen')")
    execute(fate)
    execute("INSERT INTO part VALUES (4, '2023-05-05', 'behind')")
    reader = deployment.start("capture")
    assert reader.exit_code() == 70
    last = reader.log.read_text().splitlines()[-1]
    assert "rows of public.part_24 may be of a partition of public.part" in last
    assert "pgherald snapshot" in last
    assert "unseen'" not in last
    (skip,) = re.findall(r"--skip (\S+?)`", last)
    reader = deployment.capture("--skip", skip)
    assert told(deployment) == [("c", "before"), ("c", "behind")]
    assert reader.said("change_skipped")


def test_a_table_that_becomes_partitioned_while_it_is_read_stops_the_reader_and_a_restart_reads_its_parts(
    deployment: Deployment,
) -> None:
    execute = deployment.database.execute
    execute("DROP TABLE part; CREATE TABLE part (id int, d date, v text, PRIMARY KEY (id, d))")
    reader = deployment.capture()
    execute("INSERT INTO part VALUES (1, '2023-05-05', 'whole')")
    deployment.until_caught_up()
    execute("ALTER TABLE part RENAME TO part_old")
    execute("CREATE TABLE part (LIKE part_old INCLUDING ALL) PARTITION BY RANGE (d)")
    execute("ALTER TABLE part ATTACH PARTITION part_old DEFAULT")
    assert reader.exit_code() == 70
    assert "became partitioned" in reader.log.read_text()
    deployment.capture()
    execute("INSERT INTO part VALUES (2, '2023-05-05', 'in parts')")
    assert told(deployment) == [("c", "whole"), ("c", "in parts")]


def test_a_root_and_its_partition_are_not_captured_both(deployment: Deployment) -> None:
    deployment.tables.append("part_23")
    deployment.write()
    reader = deployment.start("capture")
    assert reader.exit_code() == 78
    assert "is a partition of" in reader.log.read_text()
