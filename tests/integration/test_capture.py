"""Capture on real servers: what is committed is in Kafka once and in order, whatever happens to whom."""

from __future__ import annotations

import random
import re
import signal
import threading
import time
from contextlib import closing
from hashlib import md5
from pathlib import Path

import psycopg2
import pytest

from deploy.local.net import until
from tests.support import audit
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.proxy import Proxy
from tests.support.servers import KafkaServer, PostgresServer

TABLE = "CREATE TABLE users (id bigint PRIMARY KEY, email text, password text, n int DEFAULT 0)"


class Writers(threading.Thread):
    """Writes rows in short and long transactions, with updates, deletes and rollbacks, until told to stop."""

    def __init__(self, database: Database, first: int) -> None:
        super().__init__()
        self._database = database
        self._first = first
        self._random = random.Random(first)
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        number = self._first
        while not self.ended.is_set():
            try:
                with closing(self._database.connect()) as session, session.cursor() as cursor:
                    while not self.ended.wait(0.002):
                        number += 1
                        self._transaction(cursor, number)
            except psycopg2.Error:  # the server is being killed: the transaction is lost or not, the audit sees
                self.ended.wait(0.05)

    def _transaction(self, cursor: object, number: int) -> None:
        execute = cursor.execute  # type: ignore[attr-defined]
        execute("BEGIN")
        for part in range(self._random.choice((1, 1, 1, 2, 20))):
            execute("INSERT INTO users VALUES (%s, %s, 'secret')", (number * 100 + part, f"u{number}@example.org"))
        execute("UPDATE users SET n = n + 1 WHERE id = %s", (self._random.randint(self._first, number) * 100,))
        if self._random.random() < 0.2:
            execute("DELETE FROM users WHERE id = %s", (self._random.randint(self._first, number) * 100,))
        if self._random.random() < 0.1:
            execute("UPDATE users SET id = -id WHERE id = %s", (self._random.randint(self._first, number) * 100,))
        execute("ROLLBACK" if self._random.random() < 0.1 else "COMMIT")

    def finish(self) -> None:
        self.ended.set()
        self.join()


def audited(deployment: Deployment) -> None:
    """Hold the topic against the table."""
    deployment.until_caught_up()
    records = deployment.records()
    assert audit.repeated(records) == []
    assert audit.out_of_order(records) == []
    sequences = audit.sequences(records)  # as ever, also over a restart
    assert sequences == sorted(sequences)
    table = {
        f'{{"id":{id_}}}': {"id": id_, "email": email, "n": n}
        for id_, email, n in deployment.database.execute("SELECT id, email, n FROM users")
    }
    assert audit.replayed(records) == table


def test_rows_that_are_there_come_as_r_and_later_ones_as_what_happened(deployment: Deployment) -> None:
    deployment.database.execute("INSERT INTO users VALUES (1, 'a@example.org', 'x'), (2, 'b@example.org', 'x')")
    reader = deployment.capture()
    deployment.database.execute("INSERT INTO users VALUES (3, 'c@example.org', 'x')")
    deployment.database.execute("UPDATE users SET n = 1 WHERE id = 1")
    deployment.database.execute("DELETE FROM users WHERE id = 2")
    audited(deployment)
    assert reader.stop() == 0
    by_key = {key: [r.op for r in deployment.records() if r.key == f'{{"id":{key}}}'] for key in (1, 2, 3)}
    assert by_key == {1: ["r", "u"], 2: ["r", "d", "tombstone"], 3: ["c"]}


def test_a_secret_column_never_leaves(deployment: Deployment) -> None:
    deployment.database.execute("INSERT INTO users VALUES (1, 'a@example.org', 'hunter2')")
    deployment.capture()
    deployment.database.execute("UPDATE users SET password = 'hunter3'")
    deployment.until_caught_up()
    assert all("password" not in record.value["after"] for record in deployment.events() if record.value)
    assert "hunter" not in deployment.folder.joinpath("capture-0.log").read_text()


def test_what_rolls_back_never_arrives(deployment: Deployment) -> None:
    deployment.capture()
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        cursor.execute("BEGIN; INSERT INTO users VALUES (1); SAVEPOINT s; INSERT INTO users VALUES (2)")
        cursor.execute("ROLLBACK TO s; INSERT INTO users VALUES (3); COMMIT")
        cursor.execute("BEGIN; INSERT INTO users VALUES (4); ROLLBACK")
    deployment.until_caught_up()
    assert {record.key for record in deployment.events()} == {'{"id":1}', '{"id":3}'}


def test_copy_and_bulk_writes_are_seen_each_row_once(deployment: Deployment) -> None:
    deployment.capture()
    deployment.database.execute("INSERT INTO users SELECT n, n || '@example.org' FROM generate_series(1, 30000) n")
    audited(deployment)


def test_a_reader_killed_at_random_moments_loses_nothing_and_repeats_nothing(deployment: Deployment) -> None:
    reader = deployment.capture()
    writers = [Writers(deployment.database, first) for first in (1, 1_000_000)]
    pauses = random.Random(1)
    for _ in range(6):
        time.sleep(pauses.uniform(0.8, 2.5))  # the moment of the kill is what is random here
        reader.kill()
        reader = deployment.start("capture")
    for writer in writers:
        writer.finish()
    audited(deployment)


def test_a_reader_killed_in_the_middle_of_a_large_transaction_resumes_in_its_middle(deployment: Deployment) -> None:
    first = deployment.capture()
    deployment.database.execute("INSERT INTO users SELECT n, n || '@example.org' FROM generate_series(1, 60000) n")
    until(lambda: deployment.visible() > 0, 60, "some of the transaction to be visible", every_s=0.0)
    first.kill()
    seen = len(deployment.events())
    assert 0 < seen < 60_000
    deployment.capture()
    audited(deployment)
    assert {record.value["transaction"]["total_order"] for record in deployment.events() if record.value} == set(
        range(1, 60_001)
    )


@pytest.mark.parametrize("moment", ["sent", "produced", "committed", "confirmed"])
def test_a_reader_killed_at_a_boundary_of_its_transactions_loses_nothing_and_repeats_nothing(
    deployment: Deployment, tmp_path: Path, moment: str
) -> None:
    reader, armed = deployment.dying(moment, tmp_path / "armed"), tmp_path / "armed"
    deployment.database.execute("INSERT INTO users SELECT n, 'before' FROM generate_series(1, 10) n")
    deployment.until_caught_up()
    armed.touch()
    deployment.database.execute("INSERT INTO users SELECT n, 'then' FROM generate_series(11, 20) n")
    assert reader.exit_code() == -signal.SIGKILL
    assert len(deployment.events()) == (10 if moment in {"sent", "produced"} else 20)
    deployment.capture()
    deployment.database.execute("INSERT INTO users VALUES (21, 'after')")
    audited(deployment)


def test_a_large_transaction_flows_through_in_flat_memory(deployment: Deployment) -> None:
    reader = deployment.capture()
    insert = "INSERT INTO users SELECT n, repeat('x', 200) FROM generate_series(%s, %s) n"
    deployment.database.execute(insert, (1, 20_000))
    deployment.until_caught_up()
    some_kb = reader.peak_kb
    deployment.database.execute(insert, (20_001, 120_000))
    deployment.until_caught_up()
    assert len(deployment.events()) == 120_000
    assert reader.peak_kb < 80 * 1024
    assert reader.peak_kb - some_kb < 8 * 1024


def test_a_restarted_postgres_is_read_on(deployment: Deployment, postgres: PostgresServer) -> None:
    deployment.capture()
    writer = Writers(deployment.database, 1)
    postgres.restart()
    postgres.kill()
    postgres.start()
    until(lambda: len(deployment.events()) > 100, 60, "events after the restart")
    writer.finish()
    audited(deployment)


def test_a_reader_that_got_on_since_the_last_fault_does_not_wait_longer_for_it(deployment: Deployment) -> None:
    reader = deployment.capture()
    for number in range(1, 4):
        deployment.database.execute("INSERT INTO users VALUES (%s)", (number,))
        deployment.until_caught_up()
        deployment.database.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        until(lambda number=number: reader.count("streaming") > number, 20, "the reader to stream again")  # type: ignore[misc]
    assert reader.count("trying_again") == reader.log.read_text().count('"attempt":1,') == 3


def test_a_restarted_broker_is_written_on(deployment: Deployment, kafka: KafkaServer) -> None:
    deployment.capture()
    writer = Writers(deployment.database, 1)
    kafka.kill()
    kafka.start()
    writer.finish()
    audited(deployment)


def test_a_broker_that_hangs_longer_than_the_transaction_timeout_costs_nothing(
    deployment: Deployment, kafka: KafkaServer
) -> None:
    reader = deployment.capture()
    writer = Writers(deployment.database, 1)
    kafka.pause()
    time.sleep(20)  # longer than transaction.timeout.ms: the broker takes the transaction away on waking
    kafka.unpause()
    writer.finish()
    audited(deployment)
    assert reader.running


def test_a_line_to_postgres_that_breaks_is_taken_again(deployment: Deployment, postgres: PostgresServer) -> None:
    with Proxy(postgres.port) as line:
        deployment.source_dsn = deployment.database.dsn.replace(f"port={postgres.port}", f"port={line.port}")
        deployment.write()
        deployment.capture()
        deployment.database.execute("INSERT INTO users VALUES (1)")
        line.cut()
        deployment.database.execute("INSERT INTO users VALUES (2)")
        line.start()
        audited(deployment)


def test_a_second_reader_waits_and_takes_over(deployment: Deployment) -> None:
    first = deployment.capture()
    second = deployment.start("capture")
    until(lambda: second.said("standing_by"), 20, "the second reader to stand by")
    deployment.database.execute("INSERT INTO users VALUES (1)")
    deployment.until_caught_up()
    assert "trying_again" not in first.log.read_text()
    first.kill()
    deployment.database.execute("INSERT INTO users VALUES (2)")
    until(lambda: second.said("streaming"), 20, "the standby to take over, long before a timeout")
    audited(deployment)


def test_a_reader_stopped_by_sigstop_past_its_timeouts_wakes_without_harm(deployment: Deployment) -> None:
    first = deployment.capture()
    writer = Writers(deployment.database, 1)
    first.pause()
    second = deployment.start("capture")
    until(lambda: second.said("streaming"), 60, "the standby to take over from the stopped one")
    first.wake()
    until(lambda: first.said("standing_by"), 30, "the woken one to stand by")
    writer.finish()
    audited(deployment)


def test_a_slot_without_its_position_stops_the_reader(deployment: Deployment) -> None:
    deployment.capture().stop()
    deployment.name, old = deployment.name + "x", deployment.name
    deployment.path.write_text(deployment.path.read_text().replace(f'name = "{old}"', f'name = "{deployment.name}"', 1))
    process = deployment.start("capture")
    assert process.exit_code() == 70
    assert "Kafka holds no position" in process.log.read_text()
    assert "slot recover" in process.log.read_text()


def test_a_dropped_slot_stops_the_reader_until_recover_begins_a_new_epoch(deployment: Deployment) -> None:
    deployment.database.execute("INSERT INTO users VALUES (1)")
    deployment.capture().stop()
    deployment.database.execute("SELECT pg_drop_replication_slot(%s)", (deployment.name,))
    process = deployment.start("capture")
    assert process.exit_code() == 70
    assert "the slot is gone" in process.log.read_text()
    assert deployment.run("slot", "recover", "--yes").returncode == 0
    deployment.capture()
    deployment.until_caught_up()
    assert [record.event_id.split(":")[1] for record in deployment.events()] == ["1", "2"]


def test_an_event_larger_than_the_broker_takes_stops_the_reader_until_it_is_skipped(deployment: Deployment) -> None:
    reader = deployment.capture()
    deployment.database.execute("INSERT INTO users VALUES (1, 'before')")
    wide = "SELECT 2, string_agg(md5(n::text), '') FROM generate_series(1, 100000) n"
    deployment.database.execute(f"INSERT INTO users (id, email) {wide}")
    deployment.database.execute("INSERT INTO users VALUES (3, 'after')")
    assert reader.exit_code() == 70
    (skip,) = set(re.findall(r"--skip (\S+?)`", reader.log.read_text()))
    assert md5(b"1", usedforsecurity=False).hexdigest() not in reader.log.read_text()
    again = deployment.start("capture")
    assert again.exit_code() == 70
    deployment.capture("--skip", skip)
    deployment.until_caught_up()
    assert {record.key for record in deployment.events()} == {'{"id":1}', '{"id":3}'}


def test_a_row_that_is_too_large_is_passed_wherever_the_snapshot_reads_it(deployment: Deployment) -> None:
    wide = "SELECT 2, string_agg(md5(n::text), '') FROM generate_series(1, 100000) n"
    deployment.database.execute("INSERT INTO users VALUES (1, 'a'), (3, 'c')")
    deployment.database.execute(f"INSERT INTO users (id, email) {wide}")
    for _ in range(2):  # from the exported snapshot, then beside the stream: at another LSN
        reader = deployment.start("capture")
        assert reader.exit_code() == 70
        assert re.search(r", \d+ bytes, sha256 [0-9a-f]{64}", reader.log.read_text())
    (skip,) = set(re.findall(r"--skip (\S+?)`", reader.log.read_text()))
    deployment.database.execute("SELECT pg_logical_emit_message(true, 'app', 'the WAL goes on')")
    deployment.capture("--skip", skip)
    until(lambda: len(deployment.events()) == 2, 30, "the other rows to be read")
    assert {(record.op, record.key) for record in deployment.events()} == {("r", '{"id":1}'), ("r", '{"id":3}')}


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_an_interrupted_snapshot_goes_on_and_what_is_written_meanwhile_is_news(
    deployment: Deployment, how: str
) -> None:
    deployment.database.execute("INSERT INTO users SELECT n, n || '@example.org' FROM generate_series(1, 100000) n")
    reader = deployment.start("capture")
    until(lambda: reader.said("slot_created"), 60, "the snapshot to begin", every_s=0.01)
    if how == "killed":
        reader.kill()
    else:
        assert reader.stop() == 0
    assert '"event":"snapshot_done"' not in reader.log.read_text()
    deployment.database.execute("INSERT INTO users VALUES (-1, 'news@example.org')")
    deployment.capture()
    deployment.until_caught_up()
    records = deployment.records()
    assert next(record.op for record in records if record.key == '{"id":-1}') == "c"
    until(lambda: len(audit.replayed(deployment.records())) == 100_001, 30, "the rest to be read")
