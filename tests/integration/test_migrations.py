"""The ledger's schema on a real PostgreSQL."""

import threading
from pathlib import Path

import pytest

from cdc.runtime.errors import AccessDenied
from consumers import migrations
from consumers.migrations import migrate
from tests.support.database import Database

TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'pgherald' ORDER BY 1"
COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'pgherald' AND table_name = %s"
ALL = sorted(path.stem for path in migrations.FOLDER.glob("[0-9]*.sql"))
EVENT = {"event_id", "topic", "partition", "record_offset", "committed_at", "envelope", "raw"}
DELIVERY = set(
    "id consumer event_id rule target lane key position_lsn position_index head state attempt due_at leased_until"
    " leased_by created_at sent_at finished_at replays result error".split()
)


def test_the_tables_are_those_of_the_design(database: Database) -> None:
    assert migrate(database.dsn) == ALL
    assert database.execute(TABLES) == [("delivery",), ("event",), ("lane",), ("migration",)]
    assert {name for (name,) in database.execute(COLUMNS, ("event",))} == EVENT
    assert {name for (name,) in database.execute(COLUMNS, ("delivery",))} == DELIVERY


def test_a_second_time_changes_nothing(database: Database) -> None:
    migrate(database.dsn)
    assert migrate(database.dsn) == []


def test_processes_that_start_together_migrate_once(database: Database) -> None:
    applied: list[str] = []
    threads = [threading.Thread(target=lambda: applied.extend(migrate(database.dsn))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert applied == ALL


@pytest.fixture
def role(database: Database) -> str:
    """Make a role that may do nothing in the database."""
    database.execute(f"CREATE ROLE {database.name} LOGIN PASSWORD 'x'")
    return database.dsn.replace("user=postgres", f"user={database.name}").replace(
        f"password={database.dsn.split('password=')[1].split()[0]}", "password=x"
    )


def test_a_role_that_may_not_create_is_refused_or_needs_nothing(database: Database, role: str) -> None:
    with pytest.raises(AccessDenied):
        migrate(role)
    migrate(database.dsn)
    database.execute(f"GRANT USAGE ON SCHEMA pgherald TO {database.name}")
    database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA pgherald TO {database.name}")
    assert migrate(role) == []


def test_a_schema_made_beforehand_is_used(database: Database, role: str) -> None:
    database.execute(f"CREATE SCHEMA pgherald AUTHORIZATION {database.name}")
    assert migrate(role) == ALL


def test_a_migration_that_fails_leaves_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0001_ledger.sql").write_text((migrations.FOLDER / "0001_ledger.sql").read_text())
    (tmp_path / "0002_broken.sql").write_text("CREATE TABLE pgherald.half (x int); SELECT 1 / 0;")
    (tmp_path / "role.sql").write_text("not a migration")
    monkeypatch.setattr(migrations, "FOLDER", tmp_path)
    with pytest.raises(Exception, match="22012"):
        migrate(database.dsn)
    assert database.execute(TABLES) == []


def test_a_newer_ledger_is_left_alone(database: Database) -> None:
    migrate(database.dsn)
    database.execute("INSERT INTO pgherald.migration (number, name) VALUES (9999, '9999_later')")
    assert migrate(database.dsn) == []
