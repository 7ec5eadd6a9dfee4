"""`preflight --fix` does what harms nobody, says what came of it, and leaves the rest to the operator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdc.preflight import asking, source, tables
from cdc.preflight.managed import Server
from cdc.runtime.postgres import connect
from tests.support import role
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer

MORE = """
create_topics = false
[smtp]
host = "127.0.0.1"
security = "none"
sender = "a@example.org"
[[rules]]
name = "moved"
on = "changed:email"
mail = "welcome"
"""


@pytest.fixture
def deployment(tmp_path: Path, database: Database, kafka: KafkaServer, name: str) -> Iterator[Deployment]:
    database.execute("CREATE TABLE users (id int PRIMARY KEY, email text)")
    with Deployment(tmp_path / "d", database, kafka, name, more=MORE) as made:
        database.execute(f"ALTER TABLE users OWNER TO {role.ROLE}")
        database.execute(f"REVOKE ALL ON users FROM {role.ROLE}")
        yield made


def preflight(deployment: Deployment, *arguments: str) -> list[dict[str, Any]]:
    found = json.loads(deployment.run("preflight", "--json", *arguments).stdout)
    return [finding for finding in found if finding["part"] in ("source", "kafka")]


def remedies(found: list[dict[str, Any]], severity: str) -> str:
    return "\n".join(finding["remedy"] for finding in found if finding["severity"] == severity)


def test_what_is_safe_is_mended_and_then_the_reader_runs(deployment: Deployment) -> None:
    before = remedies(preflight(deployment), "fault")
    for statement in ("GRANT SELECT ON", "REPLICA IDENTITY FULL", "kafka-topics.sh"):
        assert statement in before
    said = deployment.run("preflight", "--fix").stdout
    lines = [line.strip() for line in said.splitlines()]
    for statement in ("GRANT SELECT ON", "REPLICA IDENTITY FULL", "kafka-topics.sh", "psql -f"):
        (place,) = [place for place, line in enumerate(lines) if statement in line]
        assert lines[place : place + 2][1] == "applied"
    after = preflight(deployment)
    assert remedies(after, "fault") == ""
    # What it costs is for the operator to weigh.
    assert "max_slot_wal_keep_size" in remedies(after, "warning")
    assert deployment.database.execute("SHOW max_slot_wal_keep_size") == [("-1",)]
    assert deployment.run("snapshot", "users").returncode == 0
    deployment.capture()
    deployment.database.execute("INSERT INTO users VALUES (1, 'ada@example.org')")
    deployment.until_caught_up()
    assert [record.op for record in deployment.events()] == ["c"]


def test_a_statement_that_is_refused_or_waits_too_long_is_said_and_stays_a_fault(deployment: Deployment) -> None:
    with closing(deployment.database.connect()) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE users IN SHARE MODE")
        found = preflight(deployment, "--fix")
    (fault,) = [finding for finding in found if finding["remedy"].endswith("REPLICA IDENTITY FULL;")]
    assert fault["severity"] == "fault"
    assert fault["outcome"].startswith("not applied: ")
    assert [finding["outcome"] for finding in found if finding["part"] == "kafka" and finding.get("outcome")] == [
        "applied"
    ]


def test_a_large_table_and_a_table_of_others_are_left_alone(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = deployment.settings

    def fixed(dsn: str) -> list[bool]:
        with closing(connect(dsn, application_name="test")) as connection:
            found = tables.look(connection, settings, settings.source.tables[0])
            return [bool(finding.fix) for finding in found if finding.severity == "fault"]

    deployment.database.execute(f"GRANT SELECT ON users TO {role.ROLE}")
    assert fixed(role.dsn(deployment.database)) == [True]
    monkeypatch.setattr(tables, "SMALL_BYTES", 0)
    assert fixed(role.dsn(deployment.database)) == [False]
    monkeypatch.undo()
    deployment.database.execute("ALTER TABLE users OWNER TO CURRENT_USER")
    deployment.database.execute(f"GRANT SELECT ON users TO {role.ROLE}")
    assert fixed(role.dsn(deployment.database)) == [False]


def test_a_plugin_is_allowed_beside_the_others_and_by_a_superuser_of_ones_own_server_alone(database: Database) -> None:
    known = {"output_plugin_libraries": "pgoutput, theirs"}
    with closing(connect(database.dsn, application_name="test")) as connection:
        ours = source.plugin_refused(connection, Server(known), "refused", "why")
        assert "= pgoutput, theirs, test_decoding, wal2json; SELECT pg_reload_conf();" in ours.remedy
        assert ours.fix
        managed = source.plugin_refused(connection, Server({**known, "rds.extensions": ""}), "refused", "why")
        assert "ALTER SYSTEM" not in managed.remedy
        assert managed.fix is None
        with connection.cursor() as cursor:
            cursor.execute(f"SET ROLE {role.ROLE}")
        assert source.plugin_refused(connection, Server(known), "refused", "why").fix is None


@pytest.mark.parametrize(
    ("change", "severity", "remedy"),
    [
        ("SELECT", "ok", "psql -f"),
        ("REVOKE CREATE ON DATABASE {db} FROM {role}", "warning", "as a superuser, in this database: psql -f"),
        ("CREATE SCHEMA pgherald; CREATE TABLE pgherald.command ()", "warning", "GRANT INSERT ON pgherald.command"),
        ("CREATE SCHEMA pgherald; CREATE UNLOGGED TABLE pgherald.command ()", "fault", "SET LOGGED"),
    ],
)
def test_what_the_table_of_commands_lacks_is_found(database: Database, change: str, severity: str, remedy: str) -> None:
    role.grant(database, [])
    database.execute(change.format(db=database.name, role=role.ROLE))
    with closing(connect(role.dsn(database), application_name="test")) as connection:
        found = asking.look(connection)
    assert (found.severity, "pgherald.command" in found.what) == (severity, True)
    assert remedy in found.remedy
    assert severity == "ok" or "pgherald snapshot" in found.why
