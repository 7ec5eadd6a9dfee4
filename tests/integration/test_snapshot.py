"""The rows that are there: every one once as `r`, never behind something newer, whoever dies and whoever writes."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdc import catalog
from cdc.runtime.fields import TableName
from cdc.snapshot import begin, lock
from deploy.local.net import until
from tests.support import audit
from tests.support.database import Database
from tests.support.deployment import Deployment, Record, Running

TABLE = "CREATE TABLE users (id bigint PRIMARY KEY, email text, n int NOT NULL DEFAULT 0)"
ROWS = 20_000


class Writer(threading.Thread):
    """Changes rows all over the table until told to stop: updates, deletes, inserts, key changes, rollbacks."""

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__()
        self._database = database
        self._random = random.Random(seed)
        self._next = seed * 1_000_000
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        with closing(self._database.connect()) as session, session.cursor() as cursor:
            while not self._ended.wait(0.001):
                cursor.execute("BEGIN")
                for _ in range(self._random.choice((1, 1, 5))):
                    self._change(cursor, self._random.randint(1, ROWS))
                cursor.execute("ROLLBACK" if self._random.random() < 0.1 else "COMMIT")

    def _change(self, cursor: Any, id_: int) -> None:
        self._next += 1
        statement = self._random.choice(
            (
                "UPDATE users SET n = n + 1 WHERE id = %(id)s",
                "UPDATE users SET n = n + 1 WHERE id = %(id)s",
                "DELETE FROM users WHERE id = %(id)s",
                "INSERT INTO users VALUES (%(id)s, 'again') ON CONFLICT (id) DO UPDATE SET n = users.n + 1",
                "INSERT INTO users VALUES (%(new)s, 'new')",
                "UPDATE users SET id = %(new)s WHERE id = %(id)s",
            )
        )
        cursor.execute(statement, {"id": id_, "new": self._next})

    def finish(self) -> None:
        self._ended.set()
        self.join()


def fill(deployment: Deployment, rows: int = ROWS) -> None:
    deployment.database.execute(
        "INSERT INTO users SELECT n, n || '@example.org' FROM generate_series(1, %s) n", (rows,)
    )


def said(reader: Running, event: str) -> list[dict[str, Any]]:
    """Give the lines of its log that tell of an event."""
    lines = (json.loads(line) for line in reader.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event]


def until_done(deployment: Deployment, reader: Running, tables: int = 1) -> None:
    until(lambda: said(reader, "snapshot_table_done")[tables - 1 :], 60, f"{tables} tables to be read")
    deployment.until_caught_up()


def snapshot(deployment: Deployment) -> dict[str, Any]:
    result = deployment.run("slot", "status", "--json")
    found: dict[str, Any] = json.loads(result.stdout)["position"]["snapshot"]
    return found


def audited(deployment: Deployment) -> list[Record]:
    """Hold the topic against the table, and its snapshot rows against what stands before them."""
    records = deployment.records()
    table = {
        f'{{"id":{id_}}}': {"id": id_, "email": email, "n": n}
        for id_, email, n in deployment.database.execute("SELECT id, email, n FROM users")
    }
    assert audit.replayed(records) == table
    assert audit.stale(records) == []
    assert audit.repeated(records) == []
    assert audit.out_of_order(records) == []
    return records


def read_once(records: list[Record]) -> Counter[str | None]:
    return Counter(record.key for record in records if record.op == "r")


def test_a_reader_killed_again_and_again_in_its_first_snapshot_repeats_nothing_and_leaves_out_nothing(
    deployment: Deployment,
) -> None:
    fill(deployment, 4 * ROWS)
    readers = [deployment.start("capture")]
    until(lambda: deployment.visible() > 0, 60, "some rows to be visible", every_s=0.0)
    readers[-1].kill()
    writers = [Writer(deployment.database, seed) for seed in (1, 2)]
    pauses = random.Random(2)
    for _ in range(3):
        readers.append(deployment.capture())
        time.sleep(pauses.uniform(0.1, 0.6))  # the moment of the kill is what is random here
        readers[-1].kill()
    reader = deployment.capture()
    # A quick machine may be done before the last kill.
    until(lambda: any(said(each, "snapshot_table_done") for each in (*readers, reader)), 60, "the table to be read")
    for writer in writers:
        writer.finish()
    deployment.until_caught_up()
    records = audited(deployment)
    assert max(read_once(records).values()) == 1
    markers = Counter(r.value["source"]["snapshot"] for r in records if r.value and r.op == "r")
    assert markers["first"] == 1
    assert markers["incremental"] > 0
    assert markers["last"] == 0
    assert reader.stop() == 0


def test_a_table_that_is_altered_while_the_slot_is_made_is_read_as_it_is(deployment: Deployment) -> None:
    deployment.database.execute("INSERT INTO users VALUES (1, 'a@example.org', 7)")
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_current_xact_id()::text::int")
        ((writing,),) = cursor.fetchall()
        deployment.start("capture")
        until(
            lambda: deployment.database.waits_for(writing), 30, "a slot to be made, which waits for whoever may write"
        )
        for old, new in (("email", "x"), ("n", "email"), ("x", "n")):
            deployment.database.execute(f"ALTER TABLE users RENAME {old} TO {new}")
        cursor.execute("COMMIT")
    until(lambda: deployment.records(), 30, "its row")
    assert [record.value["after"] for record in deployment.records() if record.value] == [
        {"id": 1, "n": "a@example.org", "email": 7}
    ]


@pytest.mark.parametrize(
    ("statement", "reads_it"),
    [
        ("INSERT INTO users VALUES (2)", True),
        ("ALTER TABLE users ADD CHECK (n >= 0)", True),
        ("ALTER TABLE users ALTER n TYPE text USING n + 1", False),
        ("ALTER TABLE users RENAME email TO mail", False),
        ("TRUNCATE users", False),
    ],
)
def test_a_snapshot_that_is_older_than_its_table_does_not_read_it(
    deployment: Deployment, statement: str, reads_it: bool
) -> None:
    users = [TableName("public", "users")]
    database = deployment.database
    with closing(database.connect()) as exporting, closing(database.connect()) as copying, exporting.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot()")
        begin(copying, cursor.fetchall()[0][0])
        database.execute(statement)
        cursor.execute("COMMIT")
        lock(copying, users)
        assert (catalog.stored(copying, users) == catalog.stored(exporting, users)) is reads_it


def test_a_table_is_read_again_on_demand_while_others_write(deployment: Deployment) -> None:
    fill(deployment)
    reader = deployment.capture()
    before = len(deployment.events())
    writers = [Writer(deployment.database, seed) for seed in (1, 2)]
    assert deployment.run("snapshot", "users").returncode == 0
    until_done(deployment, reader)
    for writer in writers:
        writer.finish()
    deployment.until_caught_up()
    records = audited(deployment)
    again = [r for r in records if r.value and r.value["source"]["snapshot"] == "incremental"]
    assert before == 20_000
    assert len(again) > 15_000
    assert max(read_once(again).values()) == 1
    assert all(r.value and r.value["source"]["txId"] is None for r in again)


def test_a_row_that_comes_while_its_table_is_read_comes_once(deployment: Deployment) -> None:
    fill(deployment, 10)
    reader = deployment.capture()
    execute = deployment.database.execute
    execute("INSERT INTO users VALUES (11, 'before it was asked for')")
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        # Reading waits for what runs when it begins, so it sees what this transaction writes, and so does the stream.
        cursor.execute(
            "BEGIN; INSERT INTO users VALUES (12, 'came'), (13, 'came'); UPDATE users SET n = 1 WHERE id = 13"
        )
        cursor.execute(
            "UPDATE users SET id = 14 WHERE id = 1; DELETE FROM users WHERE id = 2; UPDATE users SET n = 1 WHERE id = 3"
        )
        assert deployment.run("snapshot", "users").returncode == 0
        until(lambda: said(reader, "snapshot_asked"), 20, "the command to be seen")
        deployment.until_caught_up()
        cursor.execute("COMMIT")
    until_done(deployment, reader)
    again = {r.key for r in audited(deployment) if r.value and r.value["source"]["snapshot"] == "incremental"}
    assert again == {f'{{"id":{id_}}}' for id_ in (*range(3, 12), 14)}


def test_only_the_rows_asked_for_are_read_again(deployment: Deployment) -> None:
    fill(deployment, 5000)
    reader = deployment.capture()
    odd = "id % 1000 = 0 AND email LIKE '%;--'';%' OR id = 7"
    assert deployment.run("snapshot", "public.users", "--where", odd).returncode == 0
    assert deployment.run("snapshot", "users", "--where", "id IN (2500, 4999)").returncode == 0
    until_done(deployment, reader, tables=2)
    again = [r.key for r in deployment.events() if r.value and r.value["source"]["snapshot"] == "incremental"]
    assert sorted(map(str, again)) == ['{"id":2500}', '{"id":4999}', '{"id":7}']


def test_conditions_that_fail_or_attack_end_their_snapshot_and_never_capture(deployment: Deployment) -> None:
    conditions = {
        "nosuch = 1": "UndefinedColumn",
        "id / 0 = 1": "DivisionByZero",
        "true; DELETE FROM users": "holds ';'",
        "true) OR (true": "closes a parenthesis",
        "set_config('transaction_read_only', 'off', false) = ''": "ActiveSqlTransaction",
        "pg_terminate_backend(pg_backend_pid())": "no chunk of it came",
    }
    fill(deployment, 10)
    reader = deployment.capture()
    assert deployment.run("snapshot", "resume").returncode == 0  # makes the table
    for condition in conditions:
        deployment.database.execute(
            "INSERT INTO pgherald.command (slot, action, schema_name, table_name, condition)"
            " VALUES (%s, 'snapshot', 'public', 'users', %s)",
            (deployment.name, condition),
        )
    until(lambda: said(reader, "snapshot_failed")[len(conditions) - 1 :], 60, "every snapshot to fail")
    reasons = sorted(line["why"] for line in said(reader, "snapshot_failed"))
    assert [why in reason for why, reason in zip(sorted(conditions.values()), reasons, strict=True)]
    deployment.database.execute("INSERT INTO users VALUES (11)")
    deployment.until_caught_up()
    assert len(audited(deployment)) == 11
    assert "DELETE FROM users" not in reader.log.read_text()


def test_a_paused_snapshot_goes_on_behind_a_restart_when_it_is_resumed(deployment: Deployment) -> None:
    fill(deployment, 5000)
    reader = deployment.capture()
    assert deployment.run("snapshot", "pause").returncode == 0
    assert deployment.run("snapshot", "users").returncode == 0
    until(lambda: snapshot(deployment).get("tables"), 20, "the command to be seen")
    assert reader.stop() == 0
    reader = deployment.capture()
    deployment.database.execute("UPDATE users SET n = 1 WHERE id = 1")
    deployment.until_caught_up()
    state = snapshot(deployment)
    assert (state["paused"], state["tables"][0]["rows"]) == (True, 0)
    assert len(deployment.events()) == 5001
    assert deployment.run("snapshot", "resume").returncode == 0
    until_done(deployment, reader)
    assert snapshot(deployment) == {"state": "done", "paused": False}
    assert len(audited(deployment)) == 10_001


def test_a_row_that_came_before_a_crash_does_not_come_again_behind_it(deployment: Deployment) -> None:
    fill(deployment, 10)
    reader = deployment.capture()
    assert deployment.run("snapshot", "pause").returncode == 0
    assert deployment.run("snapshot", "users").returncode == 0
    until(lambda: snapshot(deployment).get("tables"), 20, "the command to be seen")
    deployment.database.execute("INSERT INTO users VALUES (11, 'new'), (12, 'gone'), (13, 'moves')")
    deployment.database.execute("DELETE FROM users WHERE id = 12")
    deployment.database.execute("UPDATE users SET id = 14 WHERE id = 13")
    deployment.until_caught_up()
    reader.kill()
    reader = deployment.capture()
    assert deployment.run("snapshot", "resume").returncode == 0
    until_done(deployment, reader)
    again = Counter(r.key for r in audited(deployment) if r.value and r.value["source"]["snapshot"] == "incremental")
    assert again == Counter(f'{{"id":{id_}}}' for id_ in (*range(1, 11), 14))


def test_the_rows_of_a_table_that_is_named_later_are_read_beside_the_stream(deployment: Deployment) -> None:
    deployment.database.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
    deployment.capture()
    deployment.database.execute("INSERT INTO orders VALUES (2)")
    deployment.until_caught_up()
    deployment.stop()
    deployment.database.execute("INSERT INTO orders VALUES (3)")
    deployment.tables.append("orders")
    deployment.write()
    reader = deployment.capture()
    until_done(deployment, reader)
    deployment.stop()
    again = deployment.capture()
    deployment.until_caught_up()
    assert not again.said("table_added")
    told = {(record.op, record.key) for record in deployment.events("public.orders")}
    assert told == {("r", '{"id":1}'), ("r", '{"id":2}'), ("c", '{"id":3}')}


#: A key of what is hard to walk along: folded case, an enum's own order, an extension's type, quotes and backslashes.
ODD = r'''
    CREATE EXTENSION citext;
    CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE SCHEMA "Odd.One";
    CREATE TYPE "Odd.One".mood AS ENUM ('z', 'a', 'm');
    CREATE TABLE "Odd.One"."a ""b""" (
        t text COLLATE folded, "Mood" "Odd.One".mood, c citext, at timestamptz, n numeric, v int,
        PRIMARY KEY ("Mood", c, t, at, n)
    );
    INSERT INTO "Odd.One"."a ""b"""
        SELECT E'\\\t\n\'' || n / 7, (ARRAY['z', 'a', 'm'])[1 + n % 3]::"Odd.One".mood, chr(65 + n % 50), 'infinity',
            n / 3.0, n
        FROM generate_series(1, 6500) n
'''


def test_keys_of_any_kind_are_walked_without_a_gap(deployment: Deployment) -> None:
    deployment.database.execute(ODD)
    deployment.tables = ['"Odd.One"."a ""b"""']
    deployment.write()
    reader = deployment.capture()
    assert deployment.run("snapshot", '"Odd.One"."a ""b"""').returncode == 0
    topic = "Odd.One.a__b_"
    until_done(deployment, reader)
    records = deployment.records(topic)
    assert Counter(Counter(r.key for r in records).values()) == {2: 6500}
    assert Counter(r.value["after"]["v"] for r in records if r.value) == dict.fromkeys(range(1, 6501), 2)


def test_tables_without_rows_or_without_a_key_are_read_too(deployment: Deployment) -> None:
    deployment.database.execute("CREATE TABLE keyless (v int); CREATE TABLE empty (id int PRIMARY KEY)")
    deployment.database.execute("INSERT INTO keyless SELECT n / 2 FROM generate_series(2, 5001) n")
    deployment.tables = ["empty", "keyless", "users"]
    deployment.write()
    reader = deployment.capture()
    for table in ("keyless", "empty", "users"):
        assert deployment.run("snapshot", table).returncode == 0
    until_done(deployment, reader, tables=3)
    records = deployment.records("public.keyless")
    assert Counter(r.value["after"]["v"] for r in records if r.value) == dict.fromkeys(range(1, 2501), 4)
    assert audit.repeated(records) == []
    assert deployment.records("public.empty") == []


def test_only_whoever_may_insert_can_ask_and_the_reader_itself_needs_no_right(deployment: Deployment) -> None:
    deployment.database.execute(f"CREATE ROLE {deployment.name} LOGIN PASSWORD 'p'")
    role = deployment.database.dsn + f" user={deployment.name} password=p"
    try:
        owned = deployment.source_dsn
        deployment.source_dsn = role
        deployment.write()
        refused = deployment.run("snapshot", "users")
        assert refused.returncode == 70
        assert "command.sql" in refused.stderr
        deployment.database.execute(Path("deploy/sql/command.sql").read_text())
        deployment.database.execute(f"GRANT USAGE ON SCHEMA pgherald TO {deployment.name}")
        refused = deployment.run("snapshot", "users")
        assert refused.returncode == 70
        assert "GRANT INSERT" in refused.stderr
        deployment.database.execute(f"GRANT INSERT ON pgherald.command TO {deployment.name}")
        assert deployment.run("snapshot", "users", "--where", "id = 1").returncode == 0
        deployment.source_dsn = owned
        deployment.write()
        unknown = deployment.run("snapshot", "nobody")
        assert (unknown.returncode, "not captured" in unknown.stderr) == (78, True)
        broken = deployment.run("snapshot", "users", "--where", "nosuch = 1")
        assert (broken.returncode, 'column "nosuch" does not exist' in broken.stderr) == (78, True)
    finally:
        deployment.database.execute(f"DROP OWNED BY {deployment.name}; DROP ROLE {deployment.name}")


def test_after_a_lost_slot_every_row_comes_as_recovery_and_deletes_are_known_to_be_unknown(
    deployment: Deployment,
) -> None:
    fill(deployment, 100)
    deployment.capture().stop()
    deployment.database.execute("SELECT pg_drop_replication_slot(%s)", (deployment.name,))
    deployment.database.execute("DELETE FROM users WHERE id = 1; UPDATE users SET n = 5 WHERE id = 2")
    recovered = deployment.run("slot", "recover", "--yes")
    assert recovered.returncode == 0
    assert "Deletes since the old slot's end can't be known" in recovered.stdout
    deployment.capture()
    deployment.until_caught_up()
    records = [r for r in deployment.events() if r.event_id.split(":")[1] == "2"]
    assert {(r.op, r.value["source"]["snapshot"]) for r in records if r.value} == {("r", "recovery")}
    assert {r.key for r in records} == {f'{{"id":{id_}}}' for id_ in range(2, 101)}
