"""What a consumer says at its start of old rows that PostgreSQL does not log."""

from contextlib import closing
from typing import Any

import pytest

from cdc.preflight import tables
from cdc.runtime.errors import FatalError
from cdc.runtime.findings import Finding
from cdc.runtime.lifecycle import Stop
from cdc.runtime.postgres import connect
from cdc.runtime.settings import Settings
from consumers.old_rows import check
from consumers.process import consume
from tests.support.database import Database

FULL = 'ALTER TABLE "public"."The Users" REPLICA IDENTITY FULL;'


@pytest.fixture
def table(database: Database) -> Database:
    database.execute('CREATE TABLE "The Users" (id int PRIMARY KEY, email text, plan text)')
    return database


def settings(dsn: str, **rule: Any) -> Settings:
    service = {"url": "https://s.example.org", "secret": "whsec_" + "a" * 32}
    return Settings.model_validate(
        {
            "source": {"name": "t", "dsn": dsn, "tables": [{"name": '"The Users"'}]},
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "user": {"plan": "plan"},
            "smtp": {"host": "127.0.0.1", "sender": "a@example.org"},
            "plans": {"free": ["s"]},
            "services": {"s": service},
            "rules": [{"name": "one", "mail": "welcome"} | rule],
        }
    )


def preflight(table: Database, given: Settings) -> list[Finding]:
    with closing(connect(table.dsn, application_name="test")) as connection:
        return list(tables.look(connection, given, given.source.tables[0]))


FUNCTION = {"mail": None, "target": "tests.support.functions:remember", "consumer": "own"}
PLANS = {"mail": None, "services": "plans", "consumer": "services"}


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        ({"on": ["created", "changed:plan"]}, "changed:plan"),
        ({"on": ["created", "deleted"]}, "deleted"),
        (FUNCTION | {"on": "deleted", "when": "user.email"}, "deleted"),
        (FUNCTION | {"on": "deleted", "when": "before['plan'] == 'pro'"}, "deleted"),
        (PLANS | {"on": ["created", "deleted"]}, "deleted"),
        (PLANS | {"on": ["changed:plan", "deleted"]}, "changed:plan, deleted"),
    ],
)
def test_rules_that_need_old_rows_stop_the_start_with_the_statement(
    table: Database, rule: dict[str, Any], kinds: str
) -> None:
    given = settings(table.dsn, **rule)
    with pytest.raises(FatalError) as fault:
        consume(given, given.rules[0].consumer, Stop())
    assert fault.value.exit_code == 70
    assert fault.value.hint == FULL
    assert f"the rule one on {kinds} needs old rows" in fault.value.message
    assert [finding.remedy for finding in preflight(table, given) if finding.severity == "fault"] == [FULL]
    table.execute(FULL)
    check(given, given.rules)
    assert "fault" not in [finding.severity for finding in preflight(table, given)]


def test_a_partitioned_table_logs_old_rows_when_each_of_its_partitions_does(table: Database) -> None:
    table.execute("""
        DROP TABLE "The Users";
        CREATE TABLE "The Users" (id text PRIMARY KEY, plan text) PARTITION BY HASH (id);
        CREATE TABLE part PARTITION OF "The Users" FOR VALUES WITH (MODULUS 1, REMAINDER 0)
    """)
    given = settings(table.dsn, on="changed:plan")
    table.execute(FULL)
    with pytest.raises(FatalError) as fault:
        check(given, given.rules)
    assert "for each of its partitions" in fault.value.hint
    table.execute("ALTER TABLE part REPLICA IDENTITY FULL")
    check(given, given.rules)


@pytest.mark.parametrize(
    "rule",
    [
        {"on": "changed:id"},
        PLANS | {"on": "created"},
        FUNCTION | {"on": ["created", "deleted"], "when": "user.key and before.id"},
    ],
)
def test_rules_that_need_none_start(table: Database, rule: dict[str, Any]) -> None:
    given = settings(table.dsn, **rule)
    check(given, given.rules)


def test_a_source_that_can_not_be_asked_keeps_nobody_waiting() -> None:
    given = settings("host=127.0.0.1 port=1 connect_timeout=1", on="changed:plan")
    check(given, given.rules)
