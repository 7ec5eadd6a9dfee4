"""After a loss: which users never got which mail, and the mails that make up for it."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

from cdc.reread import open_rows
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.fields import TableName
from cdc.runtime.settings import Settings
from consumers import console, recover
from consumers.delivery import Mark
from consumers.erase import Erasure
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.outcome import Sent
from consumers.recover import Missing, Recovery, chosen
from deploy.local.net import until
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.ledgers import entry
from tests.support.servers import KafkaServer
from tests.support.smtp import Relay

USERS = """
    CREATE TABLE users (id text PRIMARY KEY, email text, password text, plan text, created_at timestamptz DEFAULT now())
"""
TABLE = TableName("public", "users")
SINCE = datetime.now(UTC) - timedelta(hours=1)
RULES = [
    {"name": "welcome", "on": "created", "mail": "welcome", "when": "user.email"},
    {"name": "verify", "on": "created", "mail": "verify"},
    {"name": "farewell", "on": "deleted", "mail": "farewell"},
]


@pytest.fixture
def settings(database: Database) -> Settings:
    migrate(database.dsn)
    database.execute(USERS)
    return Settings.model_validate(
        {
            "source": {"name": "t", "dsn": database.dsn, "tables": [{"name": "users"}]},
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "smtp": {"host": "127.0.0.1", "sender": "a@example.org"},
            "rules": RULES,
        }
    )


@pytest.fixture
def ledger(database: Database, settings: Settings) -> Iterator[Ledger]:
    with closing(Ledger(settings.ledger_dsn, "mail", "me")) as opened:
        yield opened


def register(database: Database, *ids: str, ago: str = "1 minute") -> None:
    for id_ in ids:
        database.execute(
            "INSERT INTO users VALUES (%s, %s, 'hunter2', 'free', now() - %s::interval)",
            (id_, f"{id_}@example.org", ago),
        )


def missing(settings: Settings, where: str = "true", *, apply: bool = False, created: str = "") -> set[tuple[str, str]]:
    """Tell (rule, key) of what is missing."""
    found: list[Missing] = []
    with open_rows(settings) as rows, closing(Recovery(settings, TABLE, rows, 1)) as recovery:
        recovery.missing(
            chosen(created or recovery.created(), SINCE, where), found.append, lambda _rows: None, apply=apply
        )
    return {(one.rule, json.loads(one.key)["id"]) for one in found}


def test_nobody_alters_a_table_while_its_rows_are_looked_at(settings: Settings, database: Database) -> None:
    with open_rows(settings), pytest.raises(psycopg2.errors.LockNotAvailable):
        database.execute("SET lock_timeout = '50ms'; ALTER TABLE users RENAME email TO mail")


def test_what_was_never_planned_is_found(settings: Settings, ledger: Ledger, database: Database) -> None:
    register(database, "ada", "grace")
    register(database, "old", ago="2 days")
    database.execute("INSERT INTO users (id) VALUES ('mute')")
    ledger.store([entry(1, '{"id":"ada"}')])
    assert missing(settings) == {("welcome", "grace"), ("verify", "ada"), ("verify", "grace")}
    assert missing(settings, "id LIKE '%a' AND plan = 'free'") == {("verify", "ada")}


def test_what_is_missing_becomes_an_ordinary_delivery_once(
    settings: Settings, ledger: Ledger, database: Database
) -> None:
    register(database, "ada")
    ledger.store([entry(1, '{"id":"ada"}')])
    assert missing(settings, apply=True) == {("verify", "ada")}
    assert missing(settings, apply=True) == set()
    database.execute("UPDATE pgherald.delivery SET key = 'moved'")  # as if another process planned at the same moment
    assert missing(settings, apply=True) == {("verify", "ada"), ("welcome", "ada")}
    planned = database.execute("SELECT rule, key, state FROM pgherald.delivery ORDER BY id")
    assert planned == [
        ("welcome", "moved", "pending"),
        ("verify", "moved", "pending"),
        ("welcome", '{"id":"ada"}', "pending"),
    ]
    (delivery,) = ledger.claim({"mail:verify": 9}, ["verify"], 9, 60)
    assert delivery.envelope.after == {"id": "ada", "email": "ada@example.org", "plan": "free"} | {
        "created_at": (delivery.envelope.after or {})["created_at"]
    }
    assert (delivery.envelope.op, delivery.envelope.source.snapshot) == ("r", "recovery")
    assert ledger.mark([Mark(delivery, Sent({}), "me")])


def test_many_rows_are_compared_batch_by_batch(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "_BATCH", 1000)
    monkeypatch.setattr(recover, "_STORED", 300)
    database.execute("INSERT INTO users SELECT g, g || '@example.org' FROM generate_series(1, 2500) g")
    everyone = {(rule, str(id_)) for rule in ("welcome", "verify") for id_ in range(1, 2501)}
    assert missing(settings) == everyone
    assert missing(settings, apply=True) == everyone
    assert missing(settings) == set()
    assert database.execute("SELECT count(*), count(DISTINCT (rule, key)) FROM pgherald.delivery") == [(5000, 5000)]


def test_large_rows_are_compared_before_they_are_many(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "_BATCH_BYTES", 300)
    batch = recover._Batch()
    full = []
    for _ in range(3):
        batch.add("k", b"x" * 100)
        full.append(batch.is_full)
    assert full == [False, False, True]
    batch.clear()
    assert not batch.is_full


def test_who_was_erased_is_not_missing(settings: Settings, ledger: Ledger, database: Database) -> None:
    register(database, "ada")
    missing(settings, apply=True)
    with closing(Erasure(settings, console.who())) as erasure:
        assert erasure.erase('{"id":"ada"}')["deliveries"] == 2
    assert missing(settings) == set()


def test_a_condition_that_does_not_fit_is_said(settings: Settings, ledger: Ledger) -> None:
    with pytest.raises(ConfigInvalid, match='--where: column "nosuch"'):
        missing(settings, "nosuch = 1")
    with pytest.raises(ConfigInvalid, match="--where: ; has no place"):
        missing(settings, "true; DROP TABLE users")
    with pytest.raises(ConfigInvalid, match='column "nosuch"'):
        missing(settings, created="nosuch")


MAIL = """
[templates]
path = "{templates}"
[smtp]
host = "127.0.0.1"
port = {port}
security = "none"
sender = "a@example.org"
[links]
base_url = "https://app.example.org/verify"
secret = "a long secret for links"
[user]
name = "id"
[[rules]]
name = "welcome"
on = "created"
mail = "welcome"
"""


def test_after_a_lost_slot_everyone_gets_their_mail_once(
    database: Database, kafka: KafkaServer, name: str, tmp_path: Path, relay: Relay
) -> None:
    database.execute(USERS)
    more = MAIL.format(templates=Path("templates").resolve(), port=relay.port)
    with Deployment(tmp_path / "d", database, kafka, name, more=more) as deployment:
        mailer = deployment.start("consume", "mail")
        capture = deployment.capture()
        register(database, "ada")
        until(lambda: len(relay.accepted) == 1, 30, "the first mail")

        capture.kill()
        register(database, "grace")
        refused = deployment.run("recover", "--since", "1h", "--apply")
        assert refused.returncode == 75
        assert "`pgherald capture` does not run" in refused.stderr
        until(lambda: deployment.run("slot", "drop", "--yes").returncode == 0, 20, "the slot to be dropped")
        assert deployment.run("slot", "recover", "--yes").returncode == 0
        deployment.capture()
        register(database, "alan")
        until(lambda: len(relay.accepted) == 2, 30, "the stream to go on")

        listed = deployment.run("recover", "--since", "1h", "--json")
        assert listed.returncode == 0, listed.stderr
        expected = {"consumer": "mail", "rule": "welcome", "target": "welcome", "lane": "mail:welcome"}
        assert json.loads(listed.stdout) == [expected | {"key": '{"id":"grace"}'}]
        applied = deployment.run("recover", "--since", "1h", "--apply")
        assert "1  planned" in applied.stdout
        until(lambda: len(relay.accepted) == 3, 30, "the mail that was missing")
        assert "0  missing" in deployment.run("recover", "--since", "1h").stdout
        history = json.loads(deployment.run("ledger", "history", "--json").stdout)
        assert [(row["command"], row["count"]) for row in history] == [("recover", 1)]
        assert mailer.running
