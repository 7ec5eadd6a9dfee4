"""Rows read again from a real PostgreSQL, just before an effect."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest

from cdc.contract.envelope import Envelope, Op, Row, Source
from cdc.runtime.errors import DependencyDown, EnvelopeInvalid
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery
from consumers.fresh import FreshRows
from consumers.last_look import LastLook
from consumers.outcome import SkipDelivery
from consumers.rules import Rules
from tests.support.database import Database

NOW = datetime(2026, 11, 25, tzinfo=UTC)
RULE = {"name": "verify", "on": "created", "mail": "verify", "still": "not row.verified and user.email == was.email"}
Open = Callable[..., FreshRows]


def settings(dsn: str, table: str = "users", **of_table: Any) -> Settings:
    return Settings.model_validate(
        {
            "source": {"name": "t", "dsn": dsn, "hash_key": "k", "tables": [{"name": table} | of_table]},
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "smtp": {"host": "127.0.0.1", "sender": "a@example.org"},
            "rules": [RULE],
        }
    )


@pytest.fixture
def fresh(database: Database) -> Iterator[Open]:
    """Open readers that end with the test."""
    with ExitStack() as stack:

        def one(table: str = "users", dsn: str = "", **of_table: Any) -> FreshRows:
            rows = FreshRows(settings(dsn or database.dsn, table, **of_table))
            stack.callback(rows.close)
            return rows

        yield one


def delivery(key: Any, after: Row | None = None, *, xid: int | None = None, ts_ms: int = 1, op: Op = "c") -> Delivery:
    text = key if isinstance(key, str) else None if key is None else json.dumps(key)
    source = Source("t", ts_ms, "public", "users", txId=xid)
    change = Envelope(op, source, None, after or {"id": 1, "email": "", "verified": False})
    return Delivery(1, "mail", "t:1:1:1", "verify", "verify", "mail:verify", text, 1, 0, NOW, NOW, change)


def test_a_row_is_read_by_its_key_with_the_columns_that_the_event_has(database: Database, fresh: Open) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY, email text, verified bool, password text)")
    database.execute("INSERT INTO users VALUES (1, 'ada@example.org', true, 'secret'), (2, NULL, false, 'secret')")
    rows = fresh()
    assert rows.read(delivery({"id": 1})) == {"id": 1, "email": "ada@example.org", "verified": True}
    assert rows.read(delivery({"id": 2})) == {"id": 2, "email": None, "verified": False}
    assert rows.read(delivery({"id": 3})) is None


@pytest.mark.parametrize(
    ("type_name", "value", "key"),
    [
        ("uuid", "'6f1b1f1e-0000-4000-8000-000000000001'", "6f1b1f1e-0000-4000-8000-000000000001"),
        ("text", "E'a\\'b\"%s; --'", "a'b\"%s; --"),
        ("bigint", "9007199254740993", 9007199254740993),
        ("numeric(8,2)", "12.50", "12.50"),
        ("bytea", "'\\x00ff'", "AP8="),
        ("date", "'2024-02-29'", "2024-02-29Z"),
        ("timestamp", "'2024-01-02 03:04:05.6'", "2024-01-02T03:04:05.6Z"),
        ("timestamptz", "'2024-01-02 03:04:05.6+02'", "2024-01-02T01:04:05.600000Z"),
        ("time", "'03:04:05'", "03:04:05Z"),
        ("boolean", "true", True),
        ("inet", "'10.0.0.1'", "10.0.0.1"),
    ],
)
def test_keys_of_every_usual_type_find_their_row(
    database: Database, fresh: Open, type_name: str, value: str, key: object
) -> None:
    database.execute(f'CREATE TABLE users ("the key%" {type_name} PRIMARY KEY, id int, email text, verified bool)')
    database.execute(f"INSERT INTO users VALUES ({value}, 7, 'e', true)")  # noqa: S608
    assert fresh().read(delivery({"the key%": key})) == {"id": 7, "email": "e", "verified": True}


def test_an_event_whose_transaction_no_session_sees_yet_is_of_no_user_who_is_gone(
    database: Database, fresh: Open
) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY, email text, verified bool)")
    rows, now_ms = fresh(), time.time_ns() // 1_000_000
    with closing(psycopg2.connect(database.dsn)) as session, session.cursor() as cursor:
        cursor.execute("INSERT INTO users VALUES (1, 'ada@example.org', false)")
        cursor.execute("SELECT pg_current_xact_id()::text::bigint & 4294967295")
        ((xid,),) = cursor.fetchall()
        about = delivery({"id": 1}, xid=xid, ts_ms=now_ms)
        for _ in ("the newest of all", "with a newer one behind it"):
            with pytest.raises(DependencyDown, match="not visible yet"):
                rows.read(about)
            database.execute("SELECT pg_current_xact_id()")
        session.commit()
    assert rows.read(about) == {"id": 1, "email": "ada@example.org", "verified": False}


def test_an_old_event_or_a_snapshots_is_waited_for_by_nobody(database: Database, fresh: Open) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY)")
    rows, now_ms = fresh(), time.time_ns() // 1_000_000
    assert rows.read(delivery({"id": 1}, xid=2**31)) is None
    assert rows.read(delivery({"id": 1}, xid=2**31, ts_ms=now_ms, op="r")) is None


def test_a_key_of_several_columns_and_a_quoted_table(database: Database, fresh: Open) -> None:
    database.execute('CREATE TABLE "The ""Users" (org int, id int, email text, PRIMARY KEY (org, id))')
    database.execute("INSERT INTO \"The \"\"Users\" VALUES (1, 2, 'right'), (2, 1, 'wrong')")
    rows = fresh('public."The ""Users"')
    assert rows.read(delivery({"id": 2, "org": 1})) == {"id": 2, "email": "right"}


def test_values_are_as_the_envelope_has_them(database: Database, fresh: Open) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY, paid numeric, more jsonb, left_at date, flags int[])")
    database.execute("""INSERT INTO users VALUES (1, 12.50, '{"a": 1}', NULL, '{1,2}')""")
    after = {"id": 1, "paid": "", "more": "", "left_at": None, "flags": []}
    assert fresh().read(delivery({"id": 1}, after)) == {
        "id": 1,
        "paid": "12.50",
        "more": '{"a": 1}',
        "left_at": None,
        "flags": [1, 2],
    }


def test_what_stays_home_or_leaves_altered_is_not_read(database: Database, fresh: Open) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY, email text, phone text)")
    database.execute("INSERT INTO users VALUES (1, 'ada@example.org', '0123')")
    about = delivery({"id": 1}, {"id": 1, "email": "hashed", "phone": "****"})
    assert fresh(hash=["email"], mask=["phone"]).read(about) == {"id": 1}


@pytest.mark.parametrize("key", [None, "no json", "{}", "[1]", '{"nosuch": 1}'])
def test_an_event_whose_key_finds_nothing_by_its_nature_is_invalid(database: Database, fresh: Open, key: Any) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY)")
    with pytest.raises(EnvelopeInvalid):
        fresh().read(delivery(key))


def test_what_is_no_value_of_the_keys_type_is_gone(database: Database, fresh: Open) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY)")
    assert fresh().read(delivery({"id": "x"})) is None
    assert fresh().read(delivery({"id": 2**40})) is None


def test_a_database_that_can_not_tell_is_down_for_everyone_and_then_asked_again(
    database: Database, fresh: Open
) -> None:
    rows = fresh()
    with pytest.raises(DependencyDown, match="can't be read again"):
        rows.read(delivery({"id": 1}))
    database.execute("CREATE TABLE users (id int PRIMARY KEY)")
    assert rows.read(delivery({"id": 1})) is None
    database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgherald still'")
    with pytest.raises(DependencyDown):
        rows.read(delivery({"id": 1}))
    assert rows.read(delivery({"id": 1})) is None
    with pytest.raises(DependencyDown, match="not reachable"):
        fresh(dsn="host=127.0.0.1 port=1 connect_timeout=1").read(delivery({"id": 1}))


def test_a_row_that_a_policy_hides_is_not_gone(database: Database, fresh: Open) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY)")
    database.execute("INSERT INTO users VALUES (1)")
    database.execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY")
    database.execute(f"CREATE ROLE {database.name} LOGIN PASSWORD 'x'; GRANT SELECT ON users TO {database.name}")
    password = database.dsn.split("password=")[1].split()[0]
    dsn = database.dsn.replace("user=postgres", f"user={database.name}").replace(f"password={password}", "password=x")
    with pytest.raises(DependencyDown, match="can't be read again"):
        fresh(dsn=dsn).read(delivery({"id": 1}))


def test_nothing_can_be_written_by_it(database: Database, fresh: Open) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY)")
    database.execute(
        "CREATE FUNCTION spoil() RETURNS bool LANGUAGE sql AS $$ INSERT INTO users VALUES (9) RETURNING true $$"
    )
    database.execute("CREATE VIEW spoiling AS SELECT 1 AS id WHERE spoil()")
    with pytest.raises(DependencyDown):
        fresh("spoiling").read(delivery({"id": 1}))
    assert database.execute("SELECT * FROM users") == []


class Sends:
    """Counts what it sends."""

    def __init__(self) -> None:
        self.sent = 0

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        self.sent += 1
        sending()
        return {}

    def close(self) -> None:
        """Hold nothing."""


def test_the_last_look_is_at_the_row_as_it_is(database: Database) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY, email text, verified bool)")
    database.execute("INSERT INTO users VALUES (1, 'ada@example.org', false)")
    effect, given = Sends(), settings(database.dsn)
    look = LastLook(given, Rules(given, "mail"), effect)
    about = delivery({"id": 1}, {"id": 1, "email": "ada@example.org", "verified": False})
    assert look(about, lambda: None) == {}
    for change, reason in (
        ("UPDATE users SET verified = true", "still"),
        ("UPDATE users SET verified = false, email = 'eve@example.org'", "still"),
        ("DELETE FROM users", "gone"),
    ):
        database.execute(change)
        with pytest.raises(SkipDelivery, match=reason):
            look(about, lambda: None)
    look.close()
    assert effect.sent == 1
