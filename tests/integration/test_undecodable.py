"""A value that can't be represented stops the reader, loses nothing, and is passed by the operator's word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.net import until
from tests.support.database import Database, fresh
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer, PostgresServer


@pytest.fixture
def deployment(tmp_path: Path, postgres: PostgresServer, kafka: KafkaServer, name: str) -> Iterator[Deployment]:
    """Capture a database that takes bytes of any encoding."""
    with fresh(postgres, name, "ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'") as database:
        database.execute("CREATE TABLE users (id bigint PRIMARY KEY, email text)")
        with Deployment(tmp_path / "d", database, kafka, name) as made:
            yield made


def insert_what_is_not_utf8(database: Database) -> None:
    database.execute("INSERT INTO users VALUES (1, 'a'), (2, E'hidden \\xff'), (3, E'\\xc3\\xbc')")


def test_a_value_that_is_not_utf8_is_passed_only_by_its_event_id(deployment: Deployment) -> None:
    process = deployment.capture()
    insert_what_is_not_utf8(deployment.database)
    assert process.exit_code() == 70
    for run in range(2):  # nothing was confirmed past it: the next start stops there again
        log = process.log.read_text()
        (event_id,) = re.findall(r"--skip (\S+)`", log)
        assert re.search(rf"{event_id}, \d+ bytes, sha256 [0-9a-f]{{64}}", log)
        assert "hidden" not in log
        if run == 0:
            process = deployment.start("capture")
            assert process.exit_code() == 70
    process = deployment.capture("--skip", event_id)
    deployment.database.execute("SELECT pg_logical_emit_message(true, 'app', '\\x41ff'::bytea)")
    deployment.until_caught_up()
    assert [record.key for record in deployment.events()] == ['{"id":1}', '{"id":3}']
    assert process.said("change_skipped")
    (message,) = deployment.events("message")
    assert message.value
    assert message.value["message"]["content"] == "Qf8="


def test_a_snapshot_row_that_is_not_utf8_stops_before_the_stream(deployment: Deployment) -> None:
    insert_what_is_not_utf8(deployment.database)
    process = deployment.start("capture")
    assert process.exit_code() == 70
    log = process.log.read_text()
    assert "public.users" in log
    assert "hidden" not in log
    assert "Traceback" not in log


def test_rows_of_a_snapshot_that_are_not_utf8_are_passed_one_by_one(deployment: Deployment) -> None:
    deployment.database.execute("INSERT INTO users VALUES (1, 'a'), (2, E'hidden \\xff'), (3, E'\\xfe'), (4, 'd')")
    skips: list[str] = []
    for faults in (1, 2):
        process = deployment.start("capture", *skips)
        assert process.exit_code() == 70
        (options,) = re.findall(r"`pgherald capture ([^`]+)` goes on behind it", process.log.read_text())
        skips = options.split()
        assert skips[::2] == ["--skip"] * faults
    deployment.capture(*skips)
    until(lambda: len(deployment.events()) == 2, 30, "the other rows to be read")
    assert [(record.op, record.key) for record in deployment.events()] == [("r", '{"id":1}'), ("r", '{"id":4}')]
