"""The ledger's schema on a real PostgreSQL."""

import re
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from cdc.runtime.errors import AccessDenied, RetryableError
from consumers import columns, ledger, migrations, queries
from consumers.delivery import Leased, Mark
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.outcome import GivenBack, Outcome, Pause, Retry, Sent, Unknown
from tests.support.database import Database
from tests.support.ledgers import LANE, RULES, assert_one_head_per_queue, entry, states

TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'pgherald' ORDER BY 1"
COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'pgherald' AND table_name = %s"
ALL = sorted(path.stem for path in migrations.FOLDER.glob("[0-9]*.sql"))
EVENT = {"event_id", "topic", "partition", "record_offset", "committed_at", "envelope", "raw"}
RECORD = {"raw_key", "raw_headers"}
DELIVERY = set(
    "id consumer event_id rule target lane key position_lsn position_index head state attempt due_at leased_until"
    " leased_by created_at sent_at finished_at replays result error failing_since".split()
)


def test_the_tables_are_those_of_the_design(database: Database) -> None:
    assert migrate(database.dsn) == ALL
    assert {("delivery",), ("event",), ("lane",), ("migration",), ("operation",)} <= set(database.execute(TABLES))
    assert {name for (name,) in database.execute(COLUMNS, ("event",))} == EVENT | RECORD
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


OLD = sorted(Path(__file__).with_name("old").glob("ledger_*.sql"))
#: What a claim has given since.
NEW_FACTS = {"failing_since", "in_doubt"}
ERROR: dict[str, object] = {"class": "Deferred", "code": 451, "reason": "later"}


class OldLedger(Ledger):
    """Marks as code did that asked in a statement for each step."""

    def mark(self, marks: Sequence[Mark]) -> set[int]:
        queues = columns.of_queues(columns.queues_of([mark for mark in marks if mark.finishes]))
        with self._transaction() as run:
            run("lock_queues", {"lock": ledger.LOCK} | queues)
            kept = {row[0] for row in run("mark", columns.of_marks(marks) | {"dot_s": ledger.DOT_S})}
            run("promote", queues)
            self._mark_lanes(run, marks)
            return kept

    def sending(self, ids: Sequence[int]) -> set[int]:
        marks = [Mark(Leased(id_, "", LANE, None, "claimed", 1, self.worker), Sent({}), self.worker) for id_ in ids]
        states = {"states": ["sending"] * len(marks), "results": [None] * len(marks)}
        values = columns.of_marks(marks) | states | {"dot_s": ledger.DOT_S}
        return {row[0] for row in self._run("mark", values)}


@pytest.mark.parametrize("statements", OLD, ids=lambda path: path.stem)
def test_old_code_works_on_the_new_schema(
    database: Database, monkeypatch: pytest.MonkeyPatch, statements: Path
) -> None:
    """A new process migrates while old ones deliver. Each file holds what the code of its time said to the ledger."""
    migrate(database.dsn)
    old_sql = queries.load(str(statements.resolve()))
    # What it answers is read by the code of today.
    old_sql["store_deliveries"] = re.sub("RETURNING .*", "RETURNING event_id, rule, state", old_sql["store_deliveries"])
    old_sql["claim"] = old_sql["claim"].replace("envelope::text, raw\n", "envelope::text, raw, due_at\n")
    monkeypatch.setattr(ledger, "_SQL", ledger._SQL | old_sql)
    monkeypatch.setattr(columns, "FACTS", [name for name in columns.FACTS if name not in NEW_FACTS])
    with closing(OldLedger(database.dsn, "mail", "old")) as old:
        old.store([entry(lsn, f"k{lsn % 2}") for lsn in range(6)])
        outcomes: list[Outcome] = [Retry(0, ERROR), Pause(0, ERROR), GivenBack(), Unknown(ERROR)]
        while claimed := old.claim({LANE: 1}, RULES, 1, 60):
            assert old.renew([claimed[0].id], 60)
            assert old.sending([claimed[0].id])
            assert old.mark([Mark(claimed[0], outcomes.pop() if outcomes else Sent({}), "old")])
            assert_one_head_per_queue(database)
        assert old.expired(RULES) == []
        assert (old.unfinished(), old.figures(), old.paused_lanes()) == (0, [], set())
    assert sorted(states(database).values()) == ["sent"] * 5 + ["unknown"]


def test_migrations_only_add() -> None:
    """What old code reads and writes stays: a column goes in the release after the one that needs it no more."""
    for path in sorted(migrations.FOLDER.glob("0*.sql"))[1:]:
        statements = re.sub(r"--.*", "", path.read_text()).upper()
        assert not re.search(r"\b(DROP\s+(TABLE|COLUMN|SCHEMA)|RENAME|TRUNCATE)\b|\bALTER\s+COLUMN\b", statements), path


def test_a_migration_that_would_hold_everyone_up_gives_way(database: Database) -> None:
    with closing(database.connect()) as session, session.cursor() as cursor:
        cursor.execute((migrations.FOLDER / "0001_ledger.sql").read_text())
        cursor.execute("INSERT INTO pgherald.migration (number, name) VALUES (1, '0001_ledger')")
        cursor.execute("BEGIN; LOCK TABLE pgherald.event IN ROW EXCLUSIVE MODE")
        with pytest.raises(RetryableError, match="lock timeout"):
            migrate(database.dsn)
        cursor.execute("ROLLBACK")
        assert "0001_ledger" not in migrate(database.dsn)
