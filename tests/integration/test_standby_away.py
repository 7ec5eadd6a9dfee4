"""Commits that wait for a synchronous standby: the WAL tells of them, and no session sees them yet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from deploy.local.net import until
from tests.support import audit
from tests.support.database import Database
from tests.support.deployment import Deployment, Running

TABLE = """
    CREATE TABLE users (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO users SELECT n FROM generate_series(1, 5000) n
"""
ASK = "INSERT INTO pgherald.command (slot, action, schema_name, table_name) VALUES (%s, 'snapshot', 'public', 'users')"
#: Holds a chunk up that reaches behind the first one, which has 2000 rows, between its snapshot and its rows.
HELD = "CASE WHEN id > 2000 THEN (SELECT true FROM pg_catalog.pg_advisory_xact_lock_shared(7)) ELSE true END"


class Commits:
    """Sessions whose commits do not return."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sessions: list[threading.Thread] = []
        self._waits = threading.Event()

    def begin(self, statement: str, *parameters: str) -> None:
        """Run a statement to where its commit waits."""
        self._start(lambda: self._database.execute(statement, parameters))

    def probe(self) -> None:
        """Commit until one waits: a moment after the setting was changed."""
        self._start(self._probe)
        self._waits.set()

    def join(self) -> None:
        for session in self._sessions:
            session.join()

    def _start(self, run: Callable[[], object]) -> None:
        self._sessions.append(threading.Thread(target=run))
        self._sessions[-1].start()
        until(lambda: self._waiting() == len(self._sessions), 20, "a commit to wait for the standby")

    def _waiting(self) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'"
        return int(self._database.execute(query)[0][0])

    def _probe(self) -> None:
        while not self._waits.is_set():
            self._database.execute("SELECT pg_logical_emit_message(true, 'probe', '')")


@contextmanager
def standby_away(database: Database) -> Iterator[Commits]:
    """Let commits wait for a standby that never comes; in the end nobody waits for it any more."""
    commits = Commits(database)
    _wait_for(database, "nobody")
    try:
        commits.probe()
        yield commits
    finally:
        _wait_for(database, "")
        commits.join()


def _wait_for(database: Database, standby: str) -> None:
    with closing(database.connect()) as session, session.cursor() as cursor:
        cursor.execute(f"ALTER SYSTEM SET synchronous_standby_names TO '{standby}'")
        cursor.execute("SELECT pg_reload_conf()")


def capture(deployment: Deployment) -> Running:
    """Start a reader that was asked for something before: there is a table for it."""
    reader = deployment.start("capture", PGHERALD_SOURCE__SNAPSHOT="never")
    until(lambda: reader.said("streaming"), 30, "capture to stream")
    assert deployment.run("snapshot", "resume").returncode == 0
    return reader


def audited(deployment: Deployment, reader: Running) -> None:
    until(lambda: reader.said("snapshot_table_done"), 60, "the table to be read")
    deployment.until_caught_up()
    records = deployment.records()
    table = {f'{{"id":{id_}}}': {"id": id_, "n": n} for id_, n in deployment.database.execute("SELECT * FROM users")}
    assert audit.replayed(records) == table
    assert audit.stale(records) == []
    assert audit.repeated(records) == []
    assert audit.out_of_order(records) == []


def test_reading_waits_for_a_commit_that_the_stream_has_told_of_and_no_session_sees(deployment: Deployment) -> None:
    reader = capture(deployment)
    with standby_away(deployment.database) as commits:
        commits.begin("UPDATE users SET n = 1 WHERE id = 20")
        until(lambda: deployment.visible() > 0, 30, "the row in Kafka")
        commits.begin(ASK, deployment.name)  # nor does anyone see this one: no later transaction is at an end
        until(lambda: reader.said("snapshot_waits") or reader.said("snapshot_table_done"), 30, "the reader to wait")
    audited(deployment, reader)
    assert reader.count("streaming") == 1


def test_reading_goes_on_while_commits_wait(deployment: Deployment) -> None:
    reader = capture(deployment)
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(7)")
        assert deployment.run("snapshot", "users", "--where", HELD).returncode == 0
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
        until(lambda: deployment.database.execute(waiting), 30, "the chunk to be held up")
        with standby_away(deployment.database) as commits:
            commits.begin("UPDATE users SET n = 1 WHERE id IN (20, 4000)")
            cursor.execute("SELECT pg_advisory_unlock(7)")
            until(lambda: reader.said("snapshot_table_done"), 60, "the table to be read")
            assert reader.count("streaming") == 1
    audited(deployment, reader)
