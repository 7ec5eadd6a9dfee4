"""Rows that change their key, or anything else, before the snapshot beside the stream has read them: told whole.

The stream tells nothing of a wide value that did not change, so a consumer that begins with the snapshot has it from an
`r` or from nobody.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from cdc.contract.envelope import HEADER_NEW_KEY, UNAVAILABLE
from cdc.contract.position import position_of
from deploy.local.net import until
from tests.support import audit
from tests.support.database import Database
from tests.support.deployment import Deployment, Record, Running

TABLE = """
    CREATE TABLE users (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, wide text);
    ALTER TABLE users ALTER wide SET STORAGE EXTERNAL
"""
#: Several chunks, the first of which has 2000 rows; there is room for other keys between theirs.
ROWS, STEP = 12_000, 2
NEVER = {"PGHERALD_SOURCE__SNAPSHOT": "never"}
#: Holds a chunk up that reaches behind the first one, between its snapshot and its rows.
HELD = "CASE WHEN id > 4000 THEN (SELECT true FROM pg_catalog.pg_advisory_xact_lock_shared(7)) ELSE true END"


class Mover(threading.Thread):
    """Moves rows all over the table until told to stop, and changes them: most moves leave a wide value as it is."""

    STATEMENTS = (
        "UPDATE users SET id = %(new)s WHERE id = ({row}) AND {is_free}",
        "UPDATE users SET id = %(new)s, n = n + 1 WHERE id = ({row}) AND {is_free}",
        "UPDATE users SET n = n + 1 WHERE id = ({row})",
        "UPDATE users SET wide = repeat(%(new)s || '+', 1000) WHERE id = ({row})",
        "DELETE FROM users WHERE id = ({row})",
        "INSERT INTO users VALUES (%(new)s, 0, repeat(%(new)s || '*', 1000)) ON CONFLICT DO NOTHING",
    )

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__()
        self._database = database
        self._random = random.Random(seed)
        self._offset = 2 * seed - 1
        self._ended = threading.Event()

    def run(self) -> None:
        row = "SELECT id FROM users WHERE id >= %(some)s ORDER BY id LIMIT 1"
        is_free = "NOT EXISTS (SELECT FROM users WHERE id = %(new)s)"
        with closing(self._database.connect()) as session, session.cursor() as cursor:
            while not self._ended.wait(0.01):
                (statement,) = self._random.choices(self.STATEMENTS, (6, 2, 2, 1, 1, 1))
                # Each mover has keys of its own, which are nobody else's.
                new = self._random.randrange(0, ROWS * STEP, 4) + self._offset
                some = self._random.randrange(ROWS * STEP)
                cursor.execute(statement.format(row=row, is_free=is_free), {"new": new, "some": some})

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def fill(database: Database, rows: int = ROWS, wide_every: int = 100) -> None:
    """Write the rows, some of them with a wide value."""
    database.execute(
        "INSERT INTO users SELECT n, 0, CASE WHEN n %% %(wide)s = 0 THEN repeat(n || '-', 1000) END"
        " FROM generate_series(%(step)s, %(rows)s * %(step)s, %(step)s) n",
        {"step": STEP, "rows": rows, "wide": STEP * wide_every},
    )


def capture(deployment: Deployment) -> Running:
    """Start a reader that tells nothing of what is there until it is asked."""
    reader = deployment.start("capture", **NEVER)
    until(lambda: reader.said("streaming"), 30, "capture to stream")
    return reader


def ask(deployment: Deployment, *arguments: str) -> None:
    result = deployment.run("snapshot", *arguments)
    assert result.returncode == 0, result.stderr


@contextmanager
def holding(deployment: Deployment, statement: str) -> Iterator[None]:
    """Hold up, in a transaction, whoever waits for what it does."""
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        cursor.execute(f"BEGIN; {statement}")
        yield
        cursor.execute("COMMIT")


def read_one_chunk(deployment: Deployment, command: str) -> None:
    """Read one chunk of the table, and go no further: reading begins when those who write have ended."""
    before = deployment.visible()
    with holding(deployment, "SELECT pg_current_xact_id()"):
        for each in (command, "pause"):
            ask(deployment, each)
            deployment.until_caught_up()
    until(lambda: deployment.visible() > before, 30, "the chunk")


def change(database: Database, *statements: str) -> None:
    for statement in statements:
        database.execute(statement)


def told(records: list[Record]) -> dict[str, Any]:
    """Replay in the order of commits: what a consumer knows that begins here, and follows rows from key to key."""
    rows: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for record in sorted(records, key=lambda each: (position_of(each.event_id), each.event_id.endswith(":c"))):
        if record.key is None or record.value is None:
            continue
        before = rows.pop(record.key, None) or moved.pop(record.key, None)
        if new_key := record.headers.get(HEADER_NEW_KEY):
            moved[new_key] = before
        if after := record.value["after"]:
            known = before or {}
            rows[record.key] = {
                name: known.get(name, value) if value == UNAVAILABLE else value for name, value in after.items()
            }
    return rows


def audited(deployment: Deployment) -> list[Record]:
    """Hold what a consumer knows against the table."""
    records = deployment.records()
    table = deployment.database.execute("SELECT id, n, wide FROM users")
    expected = {f'{{"id":{id_}}}': {"id": id_, "n": n, "wide": wide} for id_, n, wide in table}
    known = told(records)
    assert {key: known.get(key) for key in known.keys() | expected.keys() if known.get(key) != expected.get(key)} == {}
    assert audit.stale(records) == []
    assert audit.repeated(records) == []
    assert audit.out_of_order(records) == []
    return records


def until_done(deployment: Deployment, reader: Running) -> None:
    until(lambda: reader.said("snapshot_table_done"), 60, "the table to be read")
    deployment.until_caught_up()


@pytest.mark.parametrize("dies", [False, True])
def test_a_row_that_moves_to_where_reading_has_been_is_told_whole(deployment: Deployment, dies: bool) -> None:
    fill(deployment.database)
    reader = capture(deployment)
    read_one_chunk(deployment, "users")
    change(
        deployment.database,
        "UPDATE users SET id = 1 WHERE id = 20000",
        "UPDATE users SET id = 3 WHERE id = 20200",
        "UPDATE users SET id = 5 WHERE id = 3",
        "UPDATE users SET id = 7 WHERE id = 20400; UPDATE users SET n = 1 WHERE id = 7",
        "UPDATE users SET id = 9 WHERE id = 20600; DELETE FROM users WHERE id = 9",
        "UPDATE users SET id = 11 WHERE id = 20800; UPDATE users SET wide = 'told' WHERE id = 11",
        "UPDATE users SET id = 13 WHERE id = 21000; UPDATE users SET id = 30001 WHERE id = 13",
        "UPDATE users SET id = 15 WHERE id = 200",
        "UPDATE users SET n = 1 WHERE id = 21200",
    )
    ask(deployment, "users", "--where", "id = 0")  # what is asked for later makes nobody forget
    deployment.until_caught_up()
    if dies:
        reader.kill()
        reader = capture(deployment)
    ask(deployment, "resume")
    until_done(deployment, reader)
    read = Counter(record.key for record in audited(deployment) if record.op == "r")
    assert max(read.values()) == 1
    odd = {int(key[6:-1]) for key in map(str, read) if key[-2] in "13579"}
    # What was told before it moved comes again: nobody knows that it was told.
    assert odd == {1, 5, 7, 15, 30001}


def test_a_reader_that_dies_while_it_looks_for_what_moved_repeats_nothing(deployment: Deployment) -> None:
    fill(deployment.database, rows=2500)
    reader = capture(deployment)
    read_one_chunk(deployment, "users")
    deployment.database.execute("UPDATE users SET id = id - 4999 WHERE id = 5000")
    read_one_chunk(deployment, "resume")
    assert reader.said("snapshot_again")
    reader.kill()
    reader = capture(deployment)
    ask(deployment, "resume")
    until_done(deployment, reader)
    read = Counter(record.key for record in audited(deployment) if record.op == "r")
    assert read == Counter(f'{{"id":{id_}}}' for id_ in (1, *range(STEP, 5000, STEP)))


def test_what_changes_while_its_chunk_is_read_is_told_whole(deployment: Deployment) -> None:
    fill(deployment.database)
    reader = capture(deployment)
    with holding(deployment, "SELECT pg_advisory_xact_lock(7)"):
        ask(deployment, "users", "--where", HELD)
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
        until(lambda: deployment.database.execute(waiting), 30, "the chunk to be held up")
        change(
            deployment.database,
            "UPDATE users SET id = 4201 WHERE id = 4200",
            "UPDATE users SET id = 4401 WHERE id = 4400; UPDATE users SET id = 4403, n = 1 WHERE id = 4401",
            "UPDATE users SET id = 4405 WHERE id = 24000",
            "UPDATE users SET id = 1 WHERE id = 4600",
            "UPDATE users SET id = 23001 WHERE id = 4800",
            "DELETE FROM users WHERE id = 5000; UPDATE users SET id = 5000 WHERE id = 5200",
            "UPDATE users SET n = 1 WHERE id = 5400",
            "UPDATE users SET n = 1 WHERE id = 5600; UPDATE users SET n = 2 WHERE id = 5600",
            "UPDATE users SET n = 1 WHERE id IN (200, 23800)",
        )
        deployment.until_caught_up()
    until_done(deployment, reader)
    audited(deployment)


def test_a_reader_killed_again_and_again_tells_of_every_row_that_moves_and_comes_to_an_end(
    deployment: Deployment,
) -> None:
    fill(deployment.database, wide_every=4)
    readers = [capture(deployment)]
    pauses = random.Random(7)
    with Mover(deployment.database, 1), Mover(deployment.database, 2):
        ask(deployment, "users")
        for _ in range(2):
            time.sleep(pauses.uniform(0.1, 0.9))  # the moment of the kill is what is random here
            readers[-1].kill()
            readers.append(capture(deployment))
        # A quick machine may be done before the last kill.
        until(lambda: any(reader.count("snapshot_table_done") for reader in readers), 120, "the table to be read")
    deployment.until_caught_up()
    audited(deployment)
    assert any(reader.count("snapshot_again") for reader in readers)
