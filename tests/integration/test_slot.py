"""The slot is never lost by surprise: it moves on when idle, danger is told early, and each loss has its own words."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdc.contract.lsn import parse_lsn
from cdc.runtime.kafka import end_offsets
from cdc.slot import Slot
from cdc.wal2json import OPTIONS
from deploy.local.net import until
from deploy.local.servers import LocalPostgres
from tests.support import audit, local
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer, PostgresServer

TABLE = "CREATE TABLE users (id bigint PRIMARY KEY, email text)"
INSERT = "INSERT INTO users VALUES (%s, %s || '@example.org')"


@pytest.fixture
def deployment(tmp_path: Path, database: Database, kafka: KafkaServer, name: str) -> Iterator[Deployment]:
    database.execute(TABLE)
    with Deployment(tmp_path / "d", database, kafka, name) as made:
        yield made


@contextmanager
def alone(
    folder: Path, kafka: KafkaServer, name: str, settings: dict[str, str]
) -> Iterator[tuple[LocalPostgres, Deployment]]:
    """Make a PostgreSQL of a test's own, and a deployment on it."""
    with local.postgres(settings) as server:
        database = Database("postgres", server)
        database.execute(TABLE)
        with Deployment(folder / "d", database, kafka, name) as made:
            yield server, made


def test_a_message_begins_at_the_lsn_that_its_line_says(database: Database, name: str) -> None:
    """The reader takes a row's LSN from there; also of one that was spilled to disk or stands behind a savepoint."""
    database.execute(f"{TABLE}; ALTER DATABASE {database.name} SET logical_decoding_work_mem TO '64kB'")
    with closing(Slot(database.dsn, name)) as slot:
        slot.create(slot.begin())
        database.execute(f"BEGIN; {INSERT}; SAVEPOINT s; {INSERT}; RELEASE s; COMMIT", (1, "1", 2, "2"))
        database.execute("INSERT INTO users SELECT g, md5(g::text) FROM generate_series(3, 3000) g")
        database.execute("UPDATE users SET email = 'x' WHERE id < 100; DELETE FROM users WHERE id = 7; TRUNCATE users")
        slot.start(OPTIONS)
        read: list[tuple[int, dict[str, Any]]] = []
        until(lambda: read_into(read, slot), 20, "the truncate to be read")
    rows = [(data_start, line) for data_start, line in read if line["action"] in "IUDT"]
    assert {line["action"] for _, line in rows} == set("IUDT")
    assert [data_start for data_start, _ in rows] == [parse_lsn(line["lsn"]) for _, line in rows]


def read_into(read: list[tuple[int, dict[str, Any]]], slot: Slot) -> bool:
    while message := slot.message():
        read.append((message.data_start, json.loads(message.payload)))
    return any(line["action"] == "T" for _, line in read)


def insert(deployment: Deployment, *ids: int) -> None:
    for id_ in ids:
        deployment.database.execute(INSERT, (id_, str(id_)))


def end_of_wal(database: Database) -> str:
    return str(database.execute("SELECT pg_current_wal_lsn()")[0][0])


def confirmed_past(deployment: Deployment, lsn: str) -> bool:
    query = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
    return deployment.database.execute(query, (lsn, deployment.name)) == [(True,)]


def refused(deployment: Deployment) -> str:
    """Start capture and collect what it says when it ends with 70."""
    process = deployment.start("capture")
    assert process.exit_code() == 70, process.log.read_text()
    return process.log.read_text().splitlines()[-1]


def status(deployment: Deployment) -> dict[str, object]:
    found: dict[str, object] = json.loads(deployment.run("slot", "status", "--json").stdout)
    return found


def test_an_idle_slot_moves_on_while_another_database_and_an_uncaptured_table_write(
    deployment: Deployment, postgres: PostgresServer
) -> None:
    deployment.capture()
    other = Database("postgres", postgres)
    other.execute("CREATE TABLE busy AS SELECT generate_series(1, 50000) n; DROP TABLE busy")
    until(lambda: confirmed_past(deployment, end_of_wal(other)), 20, "the slot to move past another database's WAL")
    deployment.database.execute("CREATE TABLE busy AS SELECT generate_series(1, 50000) n")
    end = end_of_wal(deployment.database)
    until(lambda: confirmed_past(deployment, end), 20, "the slot to move past an uncaptured table's WAL")
    assert deployment.events() == []


def test_a_slot_that_waits_for_writers_says_so_and_the_reader_can_be_stopped(deployment: Deployment) -> None:
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_current_xact_id()")
        reader = deployment.start("capture")
        until(lambda: reader.said("slot_waits"), 30, "the reader to say what it waits for")
        assert reader.stop() == 0
    assert (
        deployment.database.execute("SELECT FROM pg_replication_slots WHERE slot_name = %s", (deployment.name,)) == []
    )
    deployment.capture()


def test_status_tells_how_old_the_first_change_is_that_is_not_confirmed(deployment: Deployment) -> None:
    reader = deployment.capture()
    insert(deployment, 1)
    deployment.until_caught_up()
    running = status(deployment)
    assert running["active"] is True
    assert isinstance(running["lag_seconds"], float)
    reader.stop()
    insert(deployment, 2)
    time.sleep(1.1)  # the lag that is asserted
    stopped = status(deployment)
    assert stopped["active"] is False
    assert 1 < float(str(stopped["lag_seconds"])) < 30
    assert int(str(stopped["lag_bytes"])) > 0
    assert deployment.database.execute("SELECT count(*) FROM pg_replication_slots WHERE temporary") == [(0,)]


@pytest.mark.parametrize(
    ("make", "told", "mended"),
    [
        ("pg_create_logical_replication_slot(%s, 'test_decoding')", "plugin test_decoding", "pg_drop_replication_slot"),
        ("pg_create_physical_replication_slot(%s)", "a physical one", "source.slot"),
    ],
)
def test_a_slot_of_another_kind_is_told(deployment: Deployment, make: str, told: str, mended: str) -> None:
    deployment.database.execute(f"SELECT {make}", (deployment.name,))
    said = refused(deployment)
    assert told in said
    assert mended in said
    deployment.database.execute("SELECT pg_drop_replication_slot(%s)", (deployment.name,))


def test_a_slot_of_another_database_is_told(deployment: Deployment, postgres: PostgresServer) -> None:
    deployment.database.execute("SELECT pg_create_logical_replication_slot(%s, 'wal2json')", (deployment.name,))
    deployment.source_dsn = postgres.dsn("template1")
    Database("template1", postgres).execute(TABLE)
    try:
        deployment.write()
        said = refused(deployment)
    finally:
        Database("template1", postgres).execute("DROP TABLE users")
    assert f"belongs to the database {deployment.name}" in said
    assert "source.dsn" in said


def test_a_plugin_that_was_removed_is_told_and_the_slot_waits(deployment: Deployment) -> None:
    deployment.capture().stop()
    insert(deployment, 1)
    deployment.database.execute(f"ALTER DATABASE {deployment.name} SET dynamic_library_path = '/nonexistent'")
    said = refused(deployment)
    assert "no longer has wal2json" in said
    assert "postgresql-NN-wal2json" in said
    deployment.database.execute(f"ALTER DATABASE {deployment.name} RESET dynamic_library_path")
    deployment.capture()
    deployment.until_caught_up()
    assert [record.op for record in deployment.events()] == ["c"]


def test_a_change_that_postgresql_can_not_decode_is_told_and_a_new_slot_reads_its_row(deployment: Deployment) -> None:
    database = deployment.database
    database.execute("CREATE TYPE plan AS ENUM ('free'); ALTER TABLE users ADD plan plan")
    deployment.capture()
    insert(deployment, 1)
    deployment.until_caught_up()
    deployment.stop()
    database.execute("UPDATE pg_type SET typoutput = 1 WHERE typname = 'plan'")  # there is no such function
    database.execute("INSERT INTO users VALUES (2, 'b@example.org', 'free')")
    database.execute("UPDATE pg_type SET typoutput = 'enum_out'::regproc WHERE typname = 'plan'")
    insert(deployment, 3)
    assert "can't decode what comes behind" in (said := refused(deployment))
    assert "SQLSTATE XX000" in said
    assert "slot recover" in said
    assert refused(deployment) == said
    assert deployment.run("slot", "recover", "--yes").returncode == 0
    deployment.capture()
    insert(deployment, 4)
    deployment.until_caught_up()
    told = {(record.event_id.split(":")[1], record.op, record.key) for record in deployment.events()}
    again = {("2", "r", f'{{"id":{id_}}}') for id_ in (1, 2, 3)}
    assert told == {("1", "c", '{"id":1}'), *again, ("2", "c", '{"id":4}')}


def test_a_slot_in_danger_is_told_then_its_loss(tmp_path: Path, kafka: KafkaServer, name: str) -> None:
    sizes = {"max_slot_wal_keep_size": "32MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with alone(tmp_path, kafka, name, sizes) as (_, deployment):
        reader = deployment.capture()
        reader.pause()
        _switch(deployment.database, 2)
        second = deployment.start("capture")  # a standby warns too: the first one is beyond saying anything
        until(lambda: second.said("slot_in_danger"), 20, "the warning")
        assert "start `pgherald capture`" in second.log.read_text()
        second.stop()
        _switch(deployment.database, 6)
        reader.wake()
        assert reader.exit_code() == 70
        said = reader.log.read_text().splitlines()[-1]
        assert "is invalidated" in said
        assert "slot recover" in said
        assert "max_slot_wal_keep_size" in said
        found = status(deployment)
        assert found["wal_status"] == "lost"
        assert "slot recover" in str(found["warning"])


def _switch(database: Database, times: int) -> None:
    for _ in range(times):
        database.execute("SELECT pg_logical_emit_message(false, 'x', ''), pg_switch_wal()")
        database.execute("CHECKPOINT")


def test_a_promoted_standby_is_read_on_and_the_old_primary_is_not(
    tmp_path: Path, kafka: KafkaServer, name: str
) -> None:
    with alone(tmp_path, kafka, name, {}) as (primary, deployment), local.standby(primary) as standby:
        insert(deployment, 1)
        deployment.capture()
        insert(deployment, 2)
        deployment.until_caught_up()
        deployment.stop()
        insert(deployment, 3)
        primary.stop()  # in order: the standby gets everything
        _promote(standby, slot_of=primary, name=name)
        deployment.database = Database("postgres", standby)
        deployment.write()
        insert(deployment, 4)
        deployment.capture()
        deployment.until_caught_up()
        deployment.stop()
        assert set(audit.replayed(deployment.records())) == {f'{{"id":{id_}}}' for id_ in (1, 2, 3, 4)}
        assert audit.repeated(deployment.records()) == []
        primary.start()
        deployment.database = Database("postgres", primary)
        deployment.write()
        said = refused(deployment)
        assert "timeline 1, which does not descend from" in said
        assert "slot recover" in said


def test_a_standby_that_lacks_what_is_in_kafka_is_refused(tmp_path: Path, kafka: KafkaServer, name: str) -> None:
    with alone(tmp_path, kafka, name, {}) as (primary, deployment), local.standby(primary) as standby:
        standby.stop()
        deployment.capture()
        insert(deployment, 1)
        deployment.until_caught_up()
        deployment.stop()
        primary.stop()
        standby.start()
        deployment.database = Database("postgres", standby)
        deployment.write()
        waiting = deployment.start("capture")
        until(lambda: waiting.said("trying_again"), 20, "capture to wait for a primary")
        assert "target_session_attrs=read-write" in waiting.log.read_text()
        deployment.database.execute("SELECT pg_promote()")
        assert waiting.exit_code() == 70
        assert "lacks changes that are in Kafka" in waiting.log.read_text()


def test_a_database_put_back_from_a_copy_is_refused_also_when_it_has_grown(
    tmp_path: Path, kafka: KafkaServer, name: str
) -> None:
    with alone(tmp_path, kafka, name, {}) as (server, deployment):
        deployment.capture()
        deployment.stop()
        server.stop()
        copy = server.home / "copy"
        subprocess.run(["cp", "-a", server.cluster, copy], check=True)
        server.start()
        deployment.capture()
        insert(deployment, 1)
        deployment.until_caught_up()
        deployment.stop()
        server.stop()
        shutil.rmtree(server.cluster)
        copy.rename(server.cluster)
        server.start()
        said = refused(deployment)
        assert "an older copy was restored" in said
        assert "slot recover" in said
        insert(deployment, *range(11, 61))
        process = deployment.start("capture")
        assert process.exit_code() == 70
        assert "restored, or the slot replaced" in process.log.read_text()
        assert set(audit.replayed(deployment.records())) == {'{"id":1}'}


def test_a_message_outside_of_transactions_is_nothing_that_must_come_by_again(deployment: Deployment) -> None:
    reader = deployment.capture()
    deployment.database.execute("SELECT pg_logical_emit_message(false, 'other', 'x')")
    topic = f"{deployment.name}.message"
    until(lambda: end_offsets(deployment.settings.kafka, [topic])[topic], 20, "the message to be in Kafka")
    reader.kill()  # before it is confirmed
    deployment.capture()
    insert(deployment, 1)
    deployment.until_caught_up()
    assert [record.op for record in deployment.events()] == ["c"]


def _promote(standby: LocalPostgres, slot_of: LocalPostgres, name: str) -> None:
    """Promote a standby that has the primary's slot, as Patroni's permanent slots or pg_failover_slots keep it."""
    standby.stop()
    subprocess.run(["cp", "-a", slot_of.cluster / "pg_replslot" / name, standby.cluster / "pg_replslot"], check=True)
    standby.start()
    Database("postgres", standby).execute("SELECT pg_promote()")
