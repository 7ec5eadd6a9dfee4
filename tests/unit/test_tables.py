"""Which plan a line gets while its table changes, and whose rows a part's are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from cdc import wal2json
from cdc.contract.position import Part
from cdc.contract.xid import Seen, is_before
from cdc.partitions import Partitions
from cdc.relation import Column, Relation
from cdc.rows import TablePlan
from cdc.runtime.errors import ChangeUndecodable, ConfigInvalid, LineDoubtful, RecordsLost
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Source, SourceTable
from cdc.tables import CapturedTables
from tests.support.catalogs import SaidCatalog, captured

USERS = TableName("public", "users")
PART = TableName("public", "users_1")
KEPT = "__debezium_unavailable_value"


def shape(*columns: str, changed_xid: int = 0, **more: Any) -> Relation:
    """Make a table of an id and wide columns, each `name` or `name@xid` with who altered it last."""
    parts = [column.partition("@") for column in columns]
    wide = tuple(Column(name, "text", "text", toastable=True, since_xid=int(xid or 0)) for name, _, xid in parts)
    id_ = Column("id", "integer", "integer", toastable=False)
    return Relation(USERS, (id_, *wide), ("id",), primary=frozenset({"id"}), changed_xid=changed_xid, **more)


def line(
    action: str, *columns: str, table: str = "users", pk: str = "id", types: str = "text", lsn: str = "0/1"
) -> Any:
    given = [{"name": n, "type": "integer" if n == "id" else types, "value": 1} for n in ("id", *columns)]
    said = {"action": action, "lsn": lsn, "schema": "public", "table": table, "pk": [{"name": pk}] if pk else []}
    said |= {"identity": given[:1]} if action == "D" else {"columns": given}
    return wal2json.decode(json.dumps(said).encode())


def users() -> Source:
    return Source(name="shop", dsn=SecretStr("x"), tables=[SourceTable(name=USERS)])


def after(tables: CapturedTables, change: Any, xid: int) -> dict[str, Any]:
    plan = tables.plan(change, xid)
    assert isinstance(plan, TablePlan)
    return json.loads(plan.rows(change)[1])  # type: ignore[no-any-return]


def key(tables: CapturedTables, change: Any, xid: int) -> bytes | None:
    plan = tables.plan(change, xid)
    assert isinstance(plan, TablePlan)
    return plan.keys(change)[0]


def test_what_an_update_leaves_out_has_the_name_of_its_moment() -> None:
    catalog = SaidCatalog(shape("body"))
    tables = captured(users(), catalog)
    assert after(tables, line("U"), 5) == {"id": 1, "body": KEPT}
    catalog.relations[USERS] = shape("text@12", changed_xid=12)
    catalog.next_xid = 20
    assert after(tables, line("U"), 14) == {"id": 1, "text": KEPT}
    assert after(tables, line("U"), 11) == {"id": 1, "body": KEPT}


def test_what_an_update_leaves_out_is_kept_under_every_name_it_may_have_had() -> None:
    catalog = SaidCatalog(shape("body", "a"))
    tables = captured(users(), catalog)
    assert after(tables, line("U", "body", "a"), 5) == {"id": 1, "body": 1, "a": 1}
    catalog.relations[USERS] = shape("text@12", "b@14", changed_xid=14)
    catalog.next_xid = 20
    assert after(tables, line("U", "b", types="bigint"), 13) == {"id": 1, "b": 1, "body": KEPT, "a": KEPT, "text": KEPT}


def test_a_table_that_takes_the_name_of_another_has_none_of_its_columns() -> None:
    tables = captured(users(), SaidCatalog(shape("body")))
    other = {"columns": [{"name": "key", "type": "uuid", "value": 1}], "pk": [{"name": "key"}]}
    said = {"action": "U", "lsn": "0/1", "schema": "public", "table": "users"} | other
    change = wal2json.decode(json.dumps(said).encode())
    assert after(tables, change, 5) == {"key": 1}


def test_an_update_from_before_a_column_came_lacks_it_where_nothing_is_stored_out_of_line() -> None:
    tables = captured(users(), SaidCatalog(shape("a", "came@8", changed_xid=8, has_wide_values=False)))
    assert after(tables, line("U", "a"), 5) == {"id": 1, "a": 1}
    assert after(tables, line("U", "a"), 9) == {"id": 1, "a": 1, "came": KEPT}


def test_an_update_with_its_whole_old_row_shows_all_there_was() -> None:
    """Also what it leaves out, which then stands in the old row; columns that came or went since do not."""
    now = shape("text@12", "came@14", changed_xid=14, identity="full")
    change = line("U", "n")
    whole = msgspec.structs.replace(change, identity=[*change.columns, line("I", "body").columns[1]])
    assert after(captured(users(), SaidCatalog(now)), whole, 5) == {"id": 1, "n": 1, "body": 1}
    assert after(captured(users(), SaidCatalog(now)), change, 5) == {"id": 1, "n": 1, "text": KEPT, "came": KEPT}


def test_a_line_that_lists_no_key_has_the_one_that_was_there_before_it() -> None:
    now = shape("a", key_xid=12)
    assert key(captured(users(), SaidCatalog(now)), line("I", "a", pk=""), 14) == b'{"id":1}'


@pytest.mark.parametrize("action", ["I", "U"])
def test_a_line_without_the_key_that_the_table_had_is_read_again_and_then_believed(action: str) -> None:
    read_again: set[str] = set()
    catalog = SaidCatalog(shape("a"))
    tables = captured(users(), catalog, read_again)
    tables.plan(line("I", "a", lsn="0/1"), 5)
    keyless = replace(shape("a", changed_xid=12), key=(), primary=frozenset())
    catalog.relations[USERS] = keyless
    with pytest.raises(LineDoubtful):
        tables.plan(line(action, "a", pk="", lsn="0/2"), 11)
    # A new session, which knows no more than the catalog says now.
    catalog.relations[USERS] = shape("b", changed_xid=30, key_xid=30)
    tables = captured(users(), catalog, read_again)
    assert key(tables, line(action, "a", pk="", lsn="0/2"), 11) is None
    assert key(tables, line(action, "a", pk="", lsn="0/3"), 13) is None  # its table has none now: nothing to doubt


def test_a_line_that_came_without_its_key_has_it_when_it_is_read_again() -> None:
    read_again: set[str] = set()
    catalog = SaidCatalog(shape("a", changed_xid=12, key_xid=12))
    with pytest.raises(LineDoubtful):
        captured(users(), catalog, read_again).plan(line("I", "a", pk="", lsn="0/2"), 11)
    assert key(captured(users(), catalog, read_again), line("I", "a", lsn="0/2"), 11) == b'{"id":1}'


def test_a_line_whose_key_column_is_gone_is_read_again_too_as_it_may_have_another_key() -> None:
    catalog = SaidCatalog(shape("a"))
    tables = captured(users(), catalog)
    tables.plan(line("I", "a"), 5)
    of_id = {"action": "I", "lsn": "0/2", "schema": "public", "table": "users", "pk": []}
    change = wal2json.decode(json.dumps(of_id | {"columns": [{"name": "a", "type": "text", "value": "x"}]}).encode())
    catalog.relations[USERS] = Relation(USERS, shape("a").columns[1:], (), changed_xid=12)
    with pytest.raises(LineDoubtful):
        key(tables, change, 13)
    assert key(tables, change, 13) is None


def test_an_update_with_its_old_row_is_believed_as_the_plugin_looked_for_its_key_anew() -> None:
    catalog = SaidCatalog(shape("a"))
    tables = captured(users(), catalog)
    tables.plan(line("I", "a"), 5)
    catalog.relations[USERS] = replace(shape("a", changed_xid=12), key=(), primary=frozenset(), identity="full")
    update = line("U", "a", pk="")
    whole = msgspec.structs.replace(update, identity=update.columns)
    assert key(tables, whole, 13) is None


def test_an_insert_shows_all_there_was() -> None:
    tables = captured(users(), SaidCatalog(shape("a", "came@8", changed_xid=8)))
    assert after(tables, line("I", "a"), 5) == {"id": 1, "a": 1}


def test_a_line_that_shows_everything_needs_no_catalog_and_one_that_does_not_needs_it_once() -> None:
    catalog = SaidCatalog(shape("a"))
    tables = captured(users(), catalog)
    for xid in (5, 100, 200):
        after(tables, line("I", "a"), xid)
    assert catalog.asked == 0
    for _ in range(3):
        after(tables, line("U"), 300)
    assert catalog.asked == 1


def test_a_key_that_must_not_leave_stops_the_reader_also_when_it_was_one_in_the_past() -> None:
    tables = captured(users(), SaidCatalog(shape("token")))
    change = line("I", "token", pk="token")
    with pytest.raises(ConfigInvalid, match="token"):
        tables.plan(change, 5)


def test_a_part_is_its_roots_from_the_moment_that_it_is_seen_as_one() -> None:
    catalog = SaidCatalog(shape("a", partitioned=True))
    catalog.altered[PART] = 3
    tables = captured(users(), catalog)
    assert tables.plan(line("I", "a", table="users_1"), 5) is None
    catalog.parts[PART] = USERS
    assert tables.plan(line("I", "a", table="users_1"), 5) is None
    assert after(tables, line("I", "a", table="users_1"), 11) == {"id": 1, "a": 1}
    del catalog.parts[PART], catalog.altered[PART]
    assert after(tables, line("I", "a", table="users_1"), 11) == {"id": 1, "a": 1}
    assert tables.plan(line("I", "a", table="users_1"), 12) is not None  # it may have gone behind this one
    with pytest.raises(ChangeUndecodable):  # it came again
        tables.plan(line("I", "a", table="users_1"), 13)


def test_a_part_that_was_detached_was_one_until_then() -> None:
    catalog = SaidCatalog(shape("a", partitioned=True))
    catalog.parts[PART] = USERS
    tables = captured(users(), catalog)
    del catalog.parts[PART]
    catalog.altered[PART] = 12
    assert tables.plan(line("I", "a", table="users_1"), 13) is None
    assert tables.plan(line("I", "a", table="users_1"), 11) is not None


def test_parts_are_remembered_until_their_rows_are_behind_us() -> None:
    catalog = SaidCatalog(shape("a", partitioned=True))
    said: list[tuple[Part, ...]] = []
    old = [Part("public", "users_0", *USERS), Part("public", "stray", "public", "unknown")]
    parts = Partitions(catalog, [USERS], old, said.append)
    assert [part.table for part in said[-1]] == ["users_0"]
    assert parts.root_of(TableName("public", "users_0"), 5) == USERS
    assert parts.root_of(TableName("public", "stray"), 5) is None
    catalog.parts[PART] = USERS
    assert parts.root_of(PART, 50) == USERS
    assert [part.table for part in said[-1]] == ["users_1"]


@pytest.mark.parametrize("altered", [None, (12, 12)])  # gone; detached, or another one under its name
def test_rows_of_a_table_that_may_have_been_a_part_unseen_stop_the_reader_until_they_are_passed_over(
    altered: tuple[int, int] | None,
) -> None:
    catalog = SaidCatalog(shape("a", "b", partitioned=True))
    if altered:
        catalog.altered[PART] = altered
    tables = captured(users(), catalog)
    catalog.next_xid = 20
    with pytest.raises(ChangeUndecodable, match=r"public\.users_1 may be of a partition of public\.users"):
        tables.plan(line("I", "a", "b", table="users_1"), 11)
    assert tables.plan(line("D", table="users_1"), 11) is None
    assert tables.plan(line("I", "a", "b", table="users_1"), 15) is None


@pytest.mark.parametrize(
    "change",
    [
        line("I", "a", "other", table="gone"),
        line("I", "a", table="gone", types="bytea"),
        line("I", "a", table="gone", pk="a"),
        line("D", table="gone", pk="uuid"),
    ],
)
def test_rows_of_a_table_that_can_not_have_been_a_part_are_none_of_ours_and_told_of_once(
    change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tables = captured(users(), SaidCatalog(shape("a", partitioned=True)))
    assert [tables.plan(change, 5), tables.plan(change, 5)] == [None, None]
    assert [record.message for record in caplog.records] == ["table_unknown"]


def test_a_table_that_was_there_and_no_part_is_none_of_ours_whatever_else_was_altered() -> None:
    catalog = SaidCatalog(shape("a", partitioned=True))
    catalog.altered[PART] = (12, 3)  # truncated, say
    tables = captured(users(), catalog)
    assert tables.plan(line("I", "a", table="users_1"), 11) is None


def test_a_part_that_was_renamed_unseen_is_found_and_no_other_one_is_taken_for_it() -> None:
    catalog = SaidCatalog(shape("a", partitioned=True))
    there = TableName("public", "users_0")
    catalog.parts[there] = USERS
    tables = captured(users(), catalog)
    catalog.altered[there] = (12, 3)  # met before, so it had this name
    catalog.next_xid = 20
    with pytest.raises(ChangeUndecodable):
        tables.plan(line("I", "a", table="users_1"), 11)
    catalog.altered[there] = 3
    catalog.parts[TableName("public", "users_late")] = USERS
    catalog.altered[TableName("public", "users_late")] = (12, 12)  # attached later
    tables = captured(users(), catalog)
    with pytest.raises(ChangeUndecodable):
        tables.plan(line("I", "a", table="users_1"), 11)
    catalog.parts[TableName("public", "users_renamed")] = USERS
    catalog.altered[TableName("public", "users_renamed")] = (12, 9)
    tables = captured(users(), catalog)
    found = tables.plan(line("I", "a", table="users_1"), 11)
    assert found is not None
    assert found.name == USERS


def test_a_row_from_before_its_table_became_a_part_has_the_key_of_the_root() -> None:
    catalog = SaidCatalog(shape("body", partitioned=True))
    catalog.parts[PART] = USERS
    tables = captured(users(), catalog)
    change = line("I", "body", table="users_1", pk="")
    plan = tables.plan(change, 5)
    assert plan
    assert plan.keys(change) == (b'{"id":1}', None)


def test_a_truncated_part_is_no_truncated_table() -> None:
    catalog = SaidCatalog(shape("a", partitioned=True))
    catalog.parts[PART] = USERS
    tables = captured(users(), catalog)
    truncate = [
        wal2json.decode(json.dumps({"action": "T", "lsn": "0/1", "schema": "public", "table": table}).encode())
        for table in ("users", "users_1")
    ]
    assert [tables.plan(change, 5) is not None for change in truncate] == [True, False]  # type: ignore[arg-type]


def test_a_table_that_becomes_partitioned_stops_a_reader_that_can_not_see_its_parts() -> None:
    catalog = SaidCatalog(shape("a"))
    tables = captured(users(), catalog)
    catalog.relations[USERS] = replace(shape("a"), partitioned=True)
    with pytest.raises(RecordsLost, match="became partitioned"):
        tables.look()


@given(st.integers(3, 2**32 - 1), st.integers(1, 2**31 - 1))
def test_transaction_ids_go_round(xid: int, distance: int) -> None:
    later = (xid + distance) % 2**32
    if later > 2:
        assert is_before(xid, later)
    assert not is_before(later, xid)
    assert not is_before(xid, xid)


def test_a_snapshot_includes_what_was_committed_when_it_was_taken() -> None:
    seen = Seen.parse(f"{(1 << 32) + 95}:{(1 << 32) + 100}:{(1 << 32) + 95},{(1 << 32) + 98}")
    assert [xid for xid in range(90, 102) if seen.includes(xid)] == [90, 91, 92, 93, 94, 96, 97, 99]
    assert Seen.parse("5:5:").includes(4)
