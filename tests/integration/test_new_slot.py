"""A new slot knows its tables from its first row on, whoever alters them while it is made."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from deploy.local.net import until
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer

TABLES = """
    CREATE TABLE users (id bigint PRIMARY KEY, email text); INSERT INTO users VALUES (1, 'a@example.org');
    CREATE TABLE carts (id bigint PRIMARY KEY);
"""
COLUMN_CAME = "ALTER TABLE users ADD plan text DEFAULT 'free'"
ANOTHER_WAS_EMPTIED = "INSERT INTO carts VALUES (1); TRUNCATE carts"


@pytest.mark.parametrize("altered", [COLUMN_CAME, ANOTHER_WAS_EMPTIED])
def test_what_was_altered_while_a_slot_waited_for_writers_is_known_to_it(
    tmp_path: Path, database: Database, kafka: KafkaServer, name: str, altered: str
) -> None:
    """PostgreSQL's own way of making a slot forgets it: rows lack the column, a change of the other table ends all."""
    database.execute(TABLES)
    with (
        Deployment(tmp_path / "d", database, kafka, name) as deployment,
        closing(database.connect()) as session,
        session.cursor() as first,
        closing(database.connect()) as session,
        session.cursor() as second,
        closing(database.connect()) as session,
        session.cursor() as third,
    ):
        waited_for = begun(first)
        reader = deployment.start("capture")
        until(lambda: database.waits_for(waited_for), 30, "the slot to wait for the first writer")
        waited_for_next = begun(second)
        database.execute(altered)
        first.execute("COMMIT")
        until(lambda: database.waits_for(waited_for_next), 30, "the slot to wait for the second writer")
        last = begun(third)
        third.execute("INSERT INTO carts VALUES (2); INSERT INTO users VALUES (2, 'b@example.org')")
        second.execute("COMMIT")
        until(lambda: database.waits_for(last) or reader.said("slot_created"), 30, "the slot to wait for no one older")
        third.execute("COMMIT")
        until(lambda: reader.said("streaming"), 30, "capture to stream")
        database.execute("INSERT INTO users VALUES (3, 'c@example.org')")
        deployment.until_caught_up()
        rows = database.execute("SELECT to_jsonb(users) FROM users ORDER BY id")
        told = [record.value["after"] for record in deployment.events() if record.value]
    assert sorted(told, key=lambda row: row["id"]) == [row for (row,) in rows]


def begun(cursor: Cursor) -> int:
    """Begin a transaction that a new slot takes for one that may have written; give its id."""
    cursor.execute("BEGIN; SELECT pg_current_xact_id()::text::int")
    ((id_,),) = cursor.fetchall()
    return int(id_)
