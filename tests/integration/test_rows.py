"""Every kind of row operation through one reader: identities, keys, wide values, partitions, two-phase commit."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from cdc.contract.position import position_of
from tests.support.database import fresh
from tests.support.deployment import Deployment, Record
from tests.support.servers import KafkaServer, PostgresServer

SCHEMA = """
CREATE SCHEMA "App";
CREATE TYPE "App".plan AS ENUM ('free', 'pro');
CREATE TABLE pair (b text, a int, v text, PRIMARY KEY (a, b));
INSERT INTO pair VALUES ('s', 9, 'snapshot');
CREATE TABLE covered (id int, email text, v int, PRIMARY KEY (id) INCLUDE (email));
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, v int);
CREATE TABLE keyless (id int);
CREATE TABLE keyless_full (a int, b text);
ALTER TABLE keyless_full REPLICA IDENTITY FULL;
CREATE TABLE nothing (id int PRIMARY KEY, v int);
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE by_index (a int, email text NOT NULL UNIQUE, v int);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_email_key;
CREATE TABLE hides (id int PRIMARY KEY, email text NOT NULL UNIQUE, v int);
ALTER TABLE hides REPLICA IDENTITY USING INDEX hides_email_key;
CREATE TABLE wide_key (id text PRIMARY KEY, v int);
ALTER TABLE wide_key ALTER id SET STORAGE EXTERNAL;
CREATE TABLE wide (id int PRIMARY KEY, n int, body text, other text);
ALTER TABLE wide ALTER body SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;
CREATE TABLE generated (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
CREATE TABLE "App"."We ird.,*" (id int PRIMARY KEY, plan "App".plan, plans "App".plan[], c "char");
CREATE TABLE parent (id int PRIMARY KEY, v int);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE plain (id int PRIMARY KEY, v text);
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
"""
TABLES = [
    *("pair covered deferred keyless keyless_full nothing by_index hides wide_key wide generated".split()),
    *('"App"."We ird.,*"', "parent", "child", "plain", "unlogged"),
]


@pytest.fixture(scope="module")
def deployment(
    postgres: PostgresServer, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """One reader for all these tests, each of which has tables of its own."""
    with (
        fresh(postgres, "trows") as database,
        Deployment(tmp_path_factory.mktemp("rows") / "d", database, kafka, "trows", tables=TABLES) as made,
    ):
        database.execute(SCHEMA)
        made.capture()
        yield made


def after(deployment: Deployment, *statements: str, table: str) -> list[Record]:
    """Run statements, each in a transaction of its own, and give the table's new records in commit order."""
    known = len(deployment.records(table))
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    deployment.until_caught_up()
    return sorted(deployment.records(table), key=_place)[known:]


def _place(record: Record) -> tuple[Any, ...]:
    """Order records as the WAL does; those of a key change may lie in two partitions."""
    return position_of(record.event_id), {"d": 0, "tombstone": 1}.get(record.op, 2)


def told(records: list[Record]) -> list[tuple[str, str | None, Any, Any]]:
    """Give operation, key, before and after of each record."""
    return [(r.op, r.key, (r.value or {}).get("before"), (r.value or {}).get("after")) for r in records]


def test_a_composite_key_stands_in_its_own_order_in_snapshot_and_stream(deployment: Deployment) -> None:
    records = after(
        deployment,
        "INSERT INTO pair VALUES ('x', 1, 'v')",
        "UPDATE pair SET a = 2 WHERE b = 'x'",
        "DELETE FROM pair WHERE b = 'x'",
        table="public.pair",
    )
    one, two = '{"a":1,"b":"x"}', '{"a":2,"b":"x"}'
    assert [(record.op, record.key) for record in records] == [
        *(("c", one), ("d", one), ("tombstone", one), ("c", two)),
        *(("d", two), ("tombstone", two)),
    ]
    assert [record.key for record in deployment.records("public.pair") if record.op == "r"] == ['{"a":9,"b":"s"}']


def test_columns_that_a_key_only_includes_are_no_part_of_it(deployment: Deployment) -> None:
    records = after(
        deployment,
        "INSERT INTO covered VALUES (1, 'a', 1)",
        "UPDATE covered SET email = 'b'",
        "DELETE FROM covered",
        table="public.covered",
    )
    assert [(record.op, record.key) for record in records] == [(op, '{"id":1}') for op in ("c", "u", "d", "tombstone")]


@pytest.mark.parametrize(("table", "key"), [("keyless", None), ("deferred", None), ("nothing", '{"id":1}')])
def test_without_an_identity_inserts_are_told_and_nothing_else(
    deployment: Deployment, table: str, key: str | None
) -> None:
    statements = ("INSERT INTO {} VALUES (1)", "UPDATE {} SET id = 2", "DELETE FROM {}")
    records = after(deployment, *(text.format(table) for text in statements), table=f"public.{table}")
    assert [(record.op, record.key) for record in records] == [("c", key)]


def test_a_full_identity_without_key_tells_old_rows(deployment: Deployment) -> None:
    records = after(
        deployment,
        "INSERT INTO keyless_full VALUES (1, 'x')",
        "UPDATE keyless_full SET b = 'y'",
        "DELETE FROM keyless_full",
        table="public.keyless_full",
    )
    x, y = {"a": 1, "b": "x"}, {"a": 1, "b": "y"}
    assert told(records) == [("c", None, None, x), ("u", None, x, y), ("d", None, y, None)]


def test_an_identity_index_is_the_key_of_a_table_without_one(deployment: Deployment) -> None:
    records = after(
        deployment,
        "INSERT INTO by_index VALUES (1, 'x', 1)",
        "UPDATE by_index SET v = 2",
        "UPDATE by_index SET email = 'y'",
        "DELETE FROM by_index",
        table="public.by_index",
    )
    x, y = '{"email":"x"}', '{"email":"y"}'
    assert [(record.op, record.key) for record in records] == [
        *(("c", x), ("u", x), ("d", x), ("tombstone", x), ("c", y)),
        *(("d", y), ("tombstone", y)),
    ]
    assert records[-2].value
    assert records[-2].value["before"] == {"a": None, "email": "y", "v": None}


def test_an_identity_index_beside_a_primary_key_hides_the_key_of_deletes_and_is_warned_of(
    deployment: Deployment,
) -> None:
    records = after(deployment, "INSERT INTO hides VALUES (1, 'x', 1)", "DELETE FROM hides", table="public.hides")
    assert told(records) == [
        ("c", '{"id":1}', None, {"id": 1, "email": "x", "v": 1}),
        ("d", None, {"id": None, "email": "x", "v": None}, None),
    ]
    log = deployment.folder.joinpath("capture-0.log").read_text()
    assert '"event":"table_hides_old_keys"' in log
    assert '"event":"table_without_identity"' in log


def test_preflight_says_which_identities_tell_too_little_and_what_mends_them(deployment: Deployment) -> None:
    said = deployment.run("preflight").stdout
    for table in ("hides", "nothing"):
        assert f'ALTER TABLE "public"."{table}" REPLICA IDENTITY DEFAULT;' in said
    assert '"public"."deferred" has no primary key' in said


def test_a_deferrable_key_gets_an_index_that_the_wal_knows(deployment: Deployment) -> None:
    said = deployment.run("preflight").stdout
    (statements,) = re.findall(r'(CREATE UNIQUE INDEX "deferred_identity" .*); then start capture again', said)
    deployment.database.execute(statements)
    deployment.stop()
    deployment.capture()
    records = after(
        deployment,
        "INSERT INTO deferred VALUES (5, 1)",
        "UPDATE deferred SET v = 2 WHERE id = 5",
        "DELETE FROM deferred WHERE id = 5",
        table="public.deferred",
    )
    assert [(record.op, record.key) for record in records] == [(op, '{"id":5}') for op in ("c", "u", "d", "tombstone")]


def test_a_table_whose_changes_are_in_no_wal_is_a_fault_and_warned_of(deployment: Deployment) -> None:
    assert '"public"."unlogged" or a partition of it is UNLOGGED' in deployment.run("preflight").stdout
    assert '"event":"table_unlogged"' in deployment.folder.joinpath("capture-0.log").read_text()


def test_a_key_that_is_stored_out_of_line_is_still_the_key(deployment: Deployment) -> None:
    records = after(
        deployment,
        "INSERT INTO wide_key SELECT string_agg(md5(n::text), ''), 1 FROM generate_series(1, 75) n",
        "UPDATE wide_key SET v = 2",
        "UPDATE wide_key SET id = 'short'",
        table="public.wide_key",
    )
    assert [record.op for record in records] == ["c", "u", "d", "tombstone", "c"]
    assert len({record.key for record in records[:4]}) == 1


def test_an_unchanged_wide_value_is_never_null_and_known_with_the_old_row(deployment: Deployment) -> None:
    records = after(
        deployment,
        "INSERT INTO wide VALUES (1, 0, repeat('b', 9000), NULL)",
        "UPDATE wide SET n = 1",
        "UPDATE wide SET body = NULL, other = repeat('o', 9000)",
        "UPDATE wide SET n = 2, id = 2",
        "ALTER TABLE wide REPLICA IDENTITY FULL",
        "UPDATE wide SET n = 3",
        "ALTER TABLE wide REPLICA IDENTITY DEFAULT",
        "UPDATE wide SET n = 4",
        table="public.wide",
    )
    rows = [(record.value["before"], record.value["after"]) for record in records if record.value]
    kept = "__debezium_unavailable_value"
    assert [(row or {}).get("body") for _, row in rows] == ["b" * 9000, kept, None, None, None, None, None]
    assert [row and row["other"] for _, row in rows] == [None, None, "o" * 9000, None, kept, "o" * 9000, kept]
    assert [before and before["n"] for before, _ in rows] == [None, None, None, None, None, 2, None]


def test_a_deleted_row_of_nulls_says_whether_it_is_whole(deployment: Deployment) -> None:
    records = after(
        deployment,
        "INSERT INTO wide VALUES (11), (12)",
        "DELETE FROM wide WHERE id = 11",
        "ALTER TABLE wide REPLICA IDENTITY FULL",
        "DELETE FROM wide WHERE id = 12",
        "ALTER TABLE wide REPLICA IDENTITY DEFAULT",
        table="public.wide",
    )
    deleted = [record for record in records if record.op == "d"]
    nulls = {"n": None, "body": None, "other": None}
    assert [record.value and record.value["before"] for record in deleted] == [{"id": 11} | nulls, {"id": 12} | nulls]
    assert [record.headers.get("pgherald-old-row") for record in deleted] == [None, "1"]


def test_stored_generated_columns_are_there(deployment: Deployment) -> None:
    records = after(
        deployment, "INSERT INTO generated VALUES (1, 2)", "UPDATE generated SET n = 3", table="public.generated"
    )
    assert [row for *_, row in told(records)] == [{"id": 1, "n": 2, "twice": 4}, {"id": 1, "n": 3, "twice": 6}]


def test_names_that_need_quotes_are_names_like_others(deployment: Deployment) -> None:
    records = after(
        deployment,
        """INSERT INTO "App"."We ird.,*" VALUES (1, 'pro', '{free,pro}', 'x')""",
        """UPDATE "App"."We ird.,*" SET plan = NULL""",
        table="App.We_ird.__",
    )
    assert told(records) == [
        ("c", '{"id":1}', None, {"id": 1, "plan": "pro", "plans": ["free", "pro"], "c": "x"}),
        ("u", '{"id":1}', None, {"id": 1, "plan": None, "plans": ["free", "pro"], "c": "x"}),
    ]


def test_cascades_merge_and_truncates_of_several_tables_are_told_row_by_row_and_table_by_table(
    deployment: Deployment,
) -> None:
    statements = (
        "INSERT INTO parent VALUES (1, 1), (2, 2); INSERT INTO child VALUES (10, 1), (20, 2)",
        "UPDATE parent SET id = 3 WHERE id = 1",
        "DELETE FROM parent WHERE id = 2",
        """MERGE INTO parent USING (VALUES (3, 30), (4, 40)) given (id, v) ON parent.id = given.id
           WHEN MATCHED THEN UPDATE SET v = given.v WHEN NOT MATCHED THEN INSERT VALUES (given.id, given.v)""",
        "TRUNCATE parent CASCADE",
    )
    children = after(deployment, *statements, table="public.child")
    assert [(record.op, record.value and record.value["after"]) for record in children] == [
        ("c", {"id": 10, "parent": 1}),
        ("c", {"id": 20, "parent": 2}),
        ("u", {"id": 10, "parent": 3}),
        *(("d", None), ("tombstone", None), ("t", None)),
    ]
    parents = in_order(deployment, "public.parent")
    assert [(r.op, r.key) for r in parents] == [
        *(("c", '{"id":1}'), ("c", '{"id":2}'), ("d", '{"id":1}'), ("c", '{"id":3}')),
        *(("d", '{"id":2}'), ("u", '{"id":3}'), ("c", '{"id":4}'), ("t", None)),
    ]


def test_savepoints_prepared_transactions_and_copy_tell_what_was_committed(deployment: Deployment) -> None:
    database = deployment.database
    with closing(database.connect()) as session, session.cursor() as cursor:
        cursor.execute("BEGIN; INSERT INTO plain VALUES (1); SAVEPOINT a; INSERT INTO plain VALUES (2); SAVEPOINT b")
        cursor.execute("INSERT INTO plain VALUES (3); ROLLBACK TO b; INSERT INTO plain VALUES (4); RELEASE a; COMMIT")
        cursor.execute("BEGIN; INSERT INTO plain VALUES (5); PREPARE TRANSACTION 'kept'")
        cursor.execute("BEGIN; INSERT INTO plain VALUES (6); PREPARE TRANSACTION 'lost'")
        deployment.until_caught_up()
        assert [record.key for record in in_order(deployment, "public.plain")] == [f'{{"id":{n}}}' for n in (1, 2, 4)]
        cursor.execute("INSERT INTO plain VALUES (7)")
        cursor.execute("COMMIT PREPARED 'kept'")
        cursor.execute("ROLLBACK PREPARED 'lost'")
        cursor.copy_expert("COPY plain FROM STDIN", io.StringIO("8\ta\\tb\n9\t\\N\n"))
    deployment.until_caught_up()
    records = in_order(deployment, "public.plain")
    assert [record.key for record in records] == [f'{{"id":{n}}}' for n in (1, 2, 4, 7, 5, 8, 9)]
    assert [record.value["after"]["v"] for record in records[-2:] if record.value] == ["a\tb", None]


def test_messages_are_told_when_they_are_sent_and_transactional_ones_when_they_are_committed(
    deployment: Deployment,
) -> None:
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_logical_emit_message(true, 'app', 'lost')")
        cursor.execute("SELECT pg_logical_emit_message(false, 'app', 'at once'); ROLLBACK")
        cursor.execute("SELECT pg_logical_emit_message(true, 'app', 'kept')")
    deployment.until_caught_up()
    said = [record.value["message"]["content"] for record in in_order(deployment, "message") if record.value]
    assert said == ["YXQgb25jZQ==", "a2VwdA=="]


def in_order(deployment: Deployment, table: str) -> list[Record]:
    return sorted(deployment.events(table), key=_place)
