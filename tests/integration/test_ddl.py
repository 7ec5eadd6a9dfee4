"""A row is told as its table was at its own moment, whether the reader is right behind it or far behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdc.contract.position import position_of
from deploy.local.net import until
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer

KEPT = "__debezium_unavailable_value"
SETUP = """
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE users (id int PRIMARY KEY, n int, score posint, mood mood);
"""
#: Each statement is a transaction of its own; beside it what is told of it: operation, key, after.
STORY: list[tuple[str, list[tuple[str, str | None, Any]]]] = [
    ("INSERT INTO users VALUES (1, 3, 7, 'ok')", [("c", '{"id":1}', {"id": 1, "n": 3, "score": 7, "mood": "ok"})]),
    ("ALTER TABLE users ALTER n TYPE text USING (n + 39)::text", []),
    ("UPDATE users SET score = 8", [("u", '{"id":1}', {"id": 1, "n": "42", "score": 8, "mood": "ok"})]),
    ("ALTER TABLE users ALTER score TYPE text", []),
    ("DROP DOMAIN posint", []),
    ("ALTER TYPE mood ADD VALUE 'happy'", []),
    (
        "INSERT INTO users VALUES (2, 'x', 'y', 'happy')",
        [("c", '{"id":2}', {"id": 2, "n": "x", "score": "y", "mood": "happy"})],
    ),
    ("ALTER TABLE users DROP score, ADD plan text DEFAULT 'free', ADD reset_token text DEFAULT 'hunter2'", []),
    (
        "UPDATE users SET n = 'z' WHERE id = 1",
        [("u", '{"id":1}', {"id": 1, "n": "z", "mood": "ok", "plan": "free"})],
    ),
    ("ALTER TABLE users RENAME n TO m; ALTER TABLE users ADD n text", []),
    (
        "INSERT INTO users (id, m, n) VALUES (3, 'm', 'n')",
        [("c", '{"id":3}', {"id": 3, "m": "m", "mood": None, "plan": "free", "n": "n"})],
    ),
    ("ALTER TABLE users DROP CONSTRAINT users_pkey, ADD PRIMARY KEY (id, m)", []),
    ("DELETE FROM users WHERE id = 3", [("d", '{"id":3,"m":"m"}', None)]),
    (
        "UPDATE users SET m = 'k', plan = NULL, n = 'n' WHERE id = 1",
        [
            ("d", '{"id":1,"m":"z"}', None),
            ("c", '{"id":1,"m":"k"}', {"id": 1, "m": "k", "mood": "ok", "plan": None, "n": "n"}),
        ],
    ),
    ("ALTER TABLE users REPLICA IDENTITY FULL", []),
    ("DELETE FROM users WHERE id = 1", [("d", '{"id":1,"m":"k"}', None)]),
    ("ALTER TABLE users RENAME TO people", []),
    ("INSERT INTO people (id, m) VALUES (4, 'of no interest')", []),
    ("CREATE TABLE others (key uuid PRIMARY KEY, on_ boolean)", []),
    ("INSERT INTO others VALUES ('00000000-0000-0000-0000-000000000001', true)", []),
    ("ALTER TABLE others RENAME TO users", []),
    (
        "UPDATE users SET on_ = false",
        [
            (
                "u",
                '{"key":"00000000-0000-0000-0000-000000000001"}',
                {"key": "00000000-0000-0000-0000-000000000001", "on_": False},
            )
        ],
    ),
    ("DROP TABLE users", []),
    ("CREATE TABLE users (id int PRIMARY KEY, n numeric(5,2))", []),
    ("INSERT INTO users VALUES (1, 1.5)", [("c", '{"id":1}', {"id": 1, "n": "1.50"})]),
]


@pytest.fixture
def deployment(tmp_path: Path, database: Database, kafka: KafkaServer, name: str) -> Iterator[Deployment]:
    database.execute(SETUP)
    with Deployment(tmp_path / "d", database, kafka, name) as made:
        yield made


def told(deployment: Deployment, table: str = "public.users") -> list[tuple[str, str | None, Any]]:
    records = sorted(deployment.events(table), key=lambda record: (position_of(record.event_id), record.op == "c"))
    return [(record.op, record.key, record.value and record.value["after"]) for record in records]


def with_score(event: tuple[str, str | None, Any], score: str) -> tuple[str, str | None, Any]:
    op, key, row = event
    return op, key, row | {"score": score}


@pytest.mark.parametrize("when", ["read at once", "read in the end", "read from a backlog by a new process"])
def test_a_row_is_told_as_its_table_was_at_its_moment(deployment: Deployment, when: str) -> None:
    reader = deployment.capture()
    if when == "read in the end":
        reader.pause()
    elif when != "read at once":
        assert reader.stop() == 0
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        for statement, _ in STORY:
            cursor.execute(statement)
            if when == "read at once":
                deployment.until_caught_up()
    if when == "read in the end":
        reader.wake()
    elif when != "read at once":
        deployment.capture()
    deployment.until_caught_up()
    expected = [event for _, events in STORY for event in events]
    if when != "read at once":
        # Nothing tells whether the column was dropped or is wide and unchanged: it says "not in the WAL".
        expected[3] = with_score(expected[3], KEPT)
    if when == "read from a backlog by a new process":
        # Its domain is gone, and no line says what it was made of: the value is PostgreSQL's text.
        expected[:2] = with_score(expected[0], "7"), with_score(expected[1], "8")
    assert told(deployment) == expected
    assert "hunter2" not in "".join(str(record.value) for record in deployment.records())
    assert "hunter2" not in reader.log.read_text()


def write_and_make_the_plugin_forget(database: Database, statement: str, *following: str) -> None:
    """Write a row that says 'ok', and all that follows while the plugin, which has noted its key, waits for pg_enum."""
    with closing(database.connect()) as session, session.cursor() as cursor:
        cursor.execute("SELECT 'ok'::mood")  # known to this session from here on, and not yet to the plugin
        with closing(database.connect()) as holding, holding.cursor() as holder:
            holder.execute("BEGIN; LOCK TABLE pg_enum")
            cursor.execute(statement)
            waiting = "SELECT 1 FROM pg_locks WHERE relation = 'pg_enum'::regclass AND NOT granted"
            until(lambda: database.execute(waiting), 20, "the plugin wants to know what ok is")
            for each in following:
                cursor.execute(each)


@pytest.mark.parametrize("statement", ["INSERT INTO users VALUES (1, 'ok')", "UPDATE users SET mood = 'ok'"])
def test_a_row_has_its_key_also_where_the_plugin_forgot_it(deployment: Deployment, statement: str) -> None:
    execute = deployment.database.execute
    execute("DROP TABLE users; CREATE TABLE users (id int PRIMARY KEY, mood mood)")
    if statement.startswith("UPDATE"):
        execute("INSERT INTO users VALUES (1, 'sad')")
    reader = deployment.capture()
    write_and_make_the_plugin_forget(
        deployment.database,
        statement,
        "ALTER TABLE users DROP CONSTRAINT users_pkey",
        "INSERT INTO users VALUES (2, 'ok'), (3, 'ok')",
        "ALTER TABLE users ADD PRIMARY KEY (id, mood)",
        "INSERT INTO users VALUES (4, 'ok')",
    )
    deployment.until_caught_up()
    streamed = [key for op, key, _ in told(deployment) if op != "r"]
    assert streamed == ['{"id":1}', None, None, '{"id":4,"mood":"ok"}']
    # The key of the first row was forgotten, the second one had none any more: each was read again, once.
    assert reader.count("trying_again") == 2


def test_a_row_whose_key_a_vacuum_made_the_plugin_forget_has_it_at_once(deployment: Deployment) -> None:
    deployment.database.execute("DROP TABLE users; CREATE TABLE users (id int PRIMARY KEY, mood mood)")
    deployment.database.execute("INSERT INTO users SELECT n, 'sad' FROM generate_series(2, 500) n")
    reader = deployment.capture()
    write_and_make_the_plugin_forget(deployment.database, "INSERT INTO users VALUES (1, 'ok')", "VACUUM users")
    deployment.until_caught_up()
    assert [key for op, key, _ in told(deployment) if op != "r"] == ['{"id":1}']
    assert reader.count("trying_again") == 0


@pytest.mark.parametrize(
    "ddl",
    ["ALTER TABLE users RENAME id TO key", "ALTER TABLE users RENAME TO past; ALTER TABLE others RENAME TO users"],
    ids=["the key's column was renamed", "another table took the name"],
)
def test_a_row_has_its_key_also_where_the_plugin_forgot_another_one_than_the_last(
    deployment: Deployment, ddl: str
) -> None:
    execute = deployment.database.execute
    execute("DROP TABLE users; CREATE TABLE users (id int, mood mood, CONSTRAINT k PRIMARY KEY (id))")
    execute("CREATE TABLE others (key int, mood mood, CONSTRAINT l PRIMARY KEY (key))")
    deployment.capture()
    execute(ddl)
    write_and_make_the_plugin_forget(deployment.database, "INSERT INTO users VALUES (1, 'ok')", "DROP TABLE users")
    execute("CREATE TABLE users (id int PRIMARY KEY)")
    deployment.until_caught_up()
    assert [key for _, key, _ in told(deployment)] == ['{"key":1}']


#: What may stand right behind a row: each with what is then written, and how that is told.
BACKLOG = [
    (
        "ALTER TABLE users ALTER n TYPE text USING (n + 39)::text",
        "INSERT INTO users VALUES (2, 'x')",
        {"id": 2, "n": "x"},
    ),
    ("ALTER TABLE users ALTER n TYPE int USING length(n)", "INSERT INTO users VALUES (3, 4)", {"id": 3, "n": 4}),
    ("ALTER TABLE users RENAME n TO m", "INSERT INTO users VALUES (4, 5)", {"id": 4, "m": 5}),
    ("ALTER TABLE users DROP m, ADD m boolean", "INSERT INTO users VALUES (5, true)", {"id": 5, "m": True}),
    ("ALTER TABLE users DROP m, ADD n numeric(6,2)", "INSERT INTO users VALUES (6, 7)", {"id": 6, "n": "7.00"}),
    (
        "ALTER TABLE users RENAME TO past; CREATE TABLE users (id int PRIMARY KEY, n date)",
        "INSERT INTO users VALUES (7, '2024-05-05')",
        {"id": 7, "n": "2024-05-05Z"},
    ),
    (
        "ALTER TABLE users RENAME TO away; ALTER TABLE past RENAME TO users",
        "INSERT INTO users VALUES (8, 9)",
        {"id": 8, "n": "9.00"},
    ),
]


@pytest.mark.parametrize("transactions", ["one", "several"])
def test_a_backlog_of_rows_and_ddl_is_told_as_it_was_written_by_a_reader_that_was_down_for_all_of_it(
    deployment: Deployment, transactions: str
) -> None:
    execute = deployment.database.execute
    execute("ALTER TABLE users DROP score, DROP mood")
    assert deployment.capture().stop() == 0
    statements = ["INSERT INTO users VALUES (1, 3)", *(text for ddl, row, _ in BACKLOG for text in (ddl, row))]
    for text in ["; ".join(statements)] if transactions == "one" else statements:
        execute(f"BEGIN; {text}; COMMIT")
    deployment.capture()
    deployment.until_caught_up()
    assert [row for _, _, row in told(deployment)] == [{"id": 1, "n": 3}, *(row for *_, row in BACKLOG)]


def test_what_an_update_leaves_out_does_not_vanish_when_the_table_changed_right_behind_it(
    deployment: Deployment,
) -> None:
    execute = deployment.database.execute
    execute("ALTER TABLE users ADD body text, ALTER body SET STORAGE EXTERNAL")
    execute("INSERT INTO users (id, n, body) VALUES (1, 0, repeat('b', 9000))")
    reader = deployment.capture()
    execute("UPDATE users SET n = 1")
    deployment.until_caught_up()
    reader.pause()
    execute("UPDATE users SET n = 2")
    execute("ALTER TABLE users RENAME body TO text")
    execute("UPDATE users SET n = 3")
    execute("ALTER TABLE users ADD later text, ALTER n TYPE bigint")
    execute("UPDATE users SET n = 4")
    execute("ALTER TABLE users ALTER text SET STORAGE PLAIN")
    execute("UPDATE users SET n = 5")
    reader.wake()
    deployment.until_caught_up()
    rows = [row for _, _, row in told(deployment)[1:]]
    same = {"id": 1, "score": None, "mood": None}
    assert [row["n"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0] == same | {"n": 1, "body": KEPT}
    # The rename stands between them; in between names both are possible, and both say "not in the WAL".
    assert [{name for name, value in row.items() if value == KEPT} & {"body", "text"} for row in rows[1:3]] != [set()]
    assert all(KEPT in row.values() for row in rows)
    assert rows[3] == same | {"n": 4, "text": KEPT, "later": None}
    assert rows[4] == same | {"n": 5, "text": KEPT, "later": None}


def test_an_update_before_a_column_came_does_not_have_it(deployment: Deployment) -> None:
    execute = deployment.database.execute
    execute("INSERT INTO users VALUES (1, 0)")
    deployment.capture().stop()
    execute("UPDATE users SET n = 1")
    execute("ALTER TABLE users ADD plan text DEFAULT 'free'")
    execute("UPDATE users SET n = 2")
    deployment.capture()
    deployment.until_caught_up()
    before = {"id": 1, "score": None, "mood": None}
    assert [row for _, _, row in told(deployment)][1:] == [before | {"n": 1}, before | {"n": 2, "plan": "free"}]


def test_changes_are_said_in_the_log_and_a_table_that_is_renamed_away_is_warned_of(deployment: Deployment) -> None:
    execute = deployment.database.execute
    reader = deployment.capture()
    execute("INSERT INTO users VALUES (1, 0)")
    execute("ALTER TABLE users ADD api_key text")
    execute("INSERT INTO users VALUES (2, 0)")
    deployment.until_caught_up()
    execute("ALTER TABLE users RENAME TO people")
    until(lambda: reader.said("table_gone"), 20, "the rename to be noticed")
    said = [json.loads(line) for line in reader.log.read_text().splitlines()]
    (changed,) = [line for line in said if line["event"] == "table_changed"]
    assert (changed["added"], changed["left_out"]) == (["api_key"], ["api_key"])
    (gone,) = [line for line in said if line["event"] == "table_gone"]
    assert gone["renamed_to"] == "public.people"


def test_a_table_that_is_added_to_the_settings_is_read_from_the_restart_on(deployment: Deployment) -> None:
    execute = deployment.database.execute
    reader = deployment.capture()
    execute("CREATE TABLE more (id int PRIMARY KEY)")
    execute("INSERT INTO more VALUES (1)")
    deployment.until_caught_up()
    assert reader.stop() == 0
    deployment.tables.append("more")
    deployment.write()
    execute("INSERT INTO more VALUES (2)")
    deployment.capture()
    execute("INSERT INTO users VALUES (1)")
    execute("INSERT INTO more VALUES (3)")
    deployment.until_caught_up()
    # What was there before comes as `r` beside them, sooner or later.
    assert [key for op, key, _ in told(deployment, "public.more") if op != "r"] == ['{"id":2}', '{"id":3}']
    assert len(told(deployment)) == 1
