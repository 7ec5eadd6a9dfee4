"""From lines of wal2json to records: keys, event ids, headers, order numbers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import SecretStr

from cdc import wal2json
from cdc.contract.event import Event
from cdc.contract.lsn import format_lsn
from cdc.contract.position import Position
from cdc.copied import CopiedRows
from cdc.relation import Column, Relation
from cdc.routing import Router
from cdc.rows import plan
from cdc.runtime.errors import ChangeUndecodable, ConfigInvalid
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Source, SourceTable
from cdc.source import microseconds
from tests.support.catalogs import SaidCatalog, captured

USERS = TableName("public", "users")
BIG = "x" * 10


def column(name: str, type_: str = "text", toastable: bool = True) -> Column:
    return Column(name, type_, type_, toastable)


def relation(*more: Column, full: bool = False, key: tuple[str, ...] = ("id",)) -> Relation:
    columns = (column("id", "bigint", toastable=False), column("email"), *more)
    return Relation(USERS, columns, key, "full" if full else "default", frozenset(key))


class Lines:
    """Feeds lines to a router whose catalog can be altered, and collects what comes out.

    The catalog has seen all transactions below 10.
    """

    def __init__(self, shape: Relation | None = None, **table: Any) -> None:
        source = Source(name="shop", dsn=SecretStr("x"), tables=[SourceTable(name=USERS, **table)])
        self.catalog = SaidCatalog(shape or relation())
        self.router = Router("shop", "db", 1, captured(source, self.catalog), {3: "away"}.get)
        self.lsn = 100
        self.xid = 7
        self.index = 0

    @property
    def shape(self) -> Relation:
        return self.catalog.relations[USERS]

    def alter(self, shape: Relation) -> None:
        """Let the catalog say something else from now on."""
        self.catalog.relations[USERS] = shape

    def feed(self, **line: Any) -> list[Event]:
        self.index += 1
        change = wal2json.decode(json.dumps(line).encode())
        return self.router.events(change, Position(self.lsn, self.index), 1_700_000_000_123_456_789)

    def begin(self, xid: int = 7, **more: Any) -> None:
        self.index, self.xid = 0, xid
        end = format_lsn(self.lsn)
        begin = wal2json.Begin(xid, "2026-11-23 20:19:52.461147+00", end, **more)
        self.router.begin(begin, self.lsn)

    def commit(self) -> None:
        self.router.end(self.lsn)

    def row(
        self, action: str, columns: dict[str, Any], identity: dict[str, Any] | None = None, **more: Any
    ) -> list[Event]:
        types = {c.name: c.type for c in self.shape.columns}

        def listed(values: dict[str, Any]) -> list[dict[str, Any]]:
            return [{"name": name, "type": types.get(name, "text"), "value": value} for name, value in values.items()]

        line = {"lsn": "0/50", "schema": "public", "table": "users", "pk": [{"name": n} for n in self.shape.key]}
        line |= {"columns": listed(columns)} if columns else {}
        line |= {"identity": listed(identity)} if identity else {}
        return self.feed(action=action, **line | more)


def value(event: Event) -> dict[str, Any]:
    assert event.value is not None
    return json.loads(event.value)  # type: ignore[no-any-return]


def test_an_insert_is_one_record_with_its_key_and_event_id() -> None:
    lines = Lines()
    lines.begin()
    (event,) = lines.row("I", {"id": 1, "email": "a@example.org"})
    assert (event.topic, event.key) == ("shop.public.users", b'{"id":1}')
    assert dict(event.headers) == {"pgherald-event-id": b"shop:1:0000000000000064:1", "pgherald-schema": b"1"}
    assert value(event)["after"] == {"id": 1, "email": "a@example.org"}
    assert value(event)["source"]["ts_us"] == 1795465192461147
    assert value(event)["transaction"] == {"id": "7:80", "total_order": 1, "data_collection_order": 1}


def test_a_delete_is_followed_by_a_tombstone_and_knows_the_key_only() -> None:
    lines = Lines()
    lines.begin()
    deleted, tombstone = lines.row("D", {}, {"id": 1})
    assert value(deleted)["before"] == {"id": 1, "email": None}
    assert (tombstone.key, tombstone.value) == (b'{"id":1}', None)


def test_a_key_change_is_a_delete_a_tombstone_and_a_create_that_know_of_each_other() -> None:
    lines = Lines()
    lines.begin()
    deleted, tombstone, created = lines.row("U", {"id": 2, "email": "a"}, {"id": 1})
    assert [value(deleted)["op"], tombstone.value, value(created)["op"]] == ["d", None, "c"]
    assert dict(deleted.headers)["__debezium.newkey"] == b'{"id":2}' == dict(tombstone.headers)["__debezium.newkey"]
    assert dict(created.headers)["__debezium.oldkey"] == b'{"id":1}'
    assert [dict(e.headers)["pgherald-event-id"][-2:] for e in (deleted, tombstone, created)] == [b":d", b":d", b":c"]
    assert value(created)["transaction"]["total_order"] == 2


def test_a_wide_key_that_did_not_change_is_known_from_the_old_one() -> None:
    lines = Lines(relation(key=("email",)))
    lines.begin()
    (event,) = lines.row("U", {"id": 2}, {"email": "wide"})
    assert event.key == b'{"email":"wide"}'
    assert value(event)["after"] == {"id": 2, "email": "wide"}
    assert value(event)["before"] is None


def test_an_unchanged_wide_value_is_unavailable_without_the_old_row_and_known_with_it() -> None:
    lines = Lines()
    lines.begin()
    (event,) = lines.row("U", {"id": 1}, {"id": 1})
    assert value(event)["after"] == {"id": 1, "email": "__debezium_unavailable_value"}
    assert value(event)["before"] is None
    full = Lines(relation(full=True))
    full.begin()
    (event,) = full.row("U", {"id": 1}, {"id": 1, "email": BIG})
    assert value(event)["after"] == value(event)["before"] == {"id": 1, "email": BIG}


def test_order_numbers_and_the_notify_flag_last_to_the_end_of_the_transaction() -> None:
    lines = Lines()
    lines.begin()
    (first,) = lines.row("I", {"id": 1, "email": None})
    said = {"lsn": "0/51", "transactional": True, "prefix": "pgherald"}
    assert lines.feed(action="M", content='{"notify": false}', **said) == []
    (second,) = lines.row("I", {"id": 2, "email": None})
    lines.commit()
    lines.begin()
    (third,) = lines.row("I", {"id": 3, "email": None})
    assert ["pgherald-notify" in dict(event.headers) for event in (first, second, third)] == [False, True, False]
    assert [value(event)["transaction"]["total_order"] for event in (first, second, third)] == [1, 2, 1]
    assert value(third)["source"]["sequence"] == '["100","80"]'


def test_the_origin_of_a_transaction_is_named_in_its_events_and_messages() -> None:
    lines = Lines()
    message = {"action": "M", "lsn": "0/51", "transactional": True, "prefix": "app", "content": "x"}
    for id_, name in ((0, None), (3, "away"), (4, None)):  # 4 was dropped
        lines.begin(origin=id_)
        events = [*lines.row("I", {"id": 1, "email": None}), *lines.feed(**message)]
        assert [value(event)["source"]["origin"] for event in events] == [name, name]
        lines.commit()


@pytest.mark.parametrize("content", ['{"notify": true}', '{"notify": 0}', "[]", "not json", "{}"])
def test_other_messages_to_us_change_nothing(content: str) -> None:
    lines = Lines()
    lines.begin()
    lines.feed(action="M", content=content, lsn="0/51", transactional=True, prefix="pgherald")
    (event,) = lines.row("I", {"id": 1, "email": None})
    assert "pgherald-notify" not in dict(event.headers)


def test_a_column_that_is_added_in_mid_stream_is_seen() -> None:
    lines = Lines()
    lines.begin()
    lines.row("I", {"id": 1, "email": "a"})
    lines.alter(relation(column("plan")))
    lines.begin(10)
    (event,) = lines.row("I", {"id": 2, "email": "b", "plan": "pro"})
    assert value(event)["after"] == {"id": 2, "email": "b", "plan": "pro"}
    assert lines.catalog.asked == 1


def test_a_line_from_before_the_catalogs_shape_is_written_as_it_is() -> None:
    lines = Lines(relation(column("plan")))
    lines.begin()
    (event,) = lines.row("I", {"id": 2, "email": "b"})
    assert value(event)["after"] == {"id": 2, "email": "b"}


def test_a_table_without_key_has_records_without_key_and_no_tombstones() -> None:
    lines = Lines(relation(key=(), full=True))
    lines.begin()
    events = [*lines.row("I", {"id": 1, "email": "a"}), *lines.row("D", {}, {"id": 1, "email": "a"})]
    assert [(event.key, value(event)["op"]) for event in events] == [(None, "c"), (None, "d")]


def test_a_truncate_has_no_key_and_no_rows() -> None:
    lines = Lines()
    lines.begin()
    (event,) = lines.feed(action="T", lsn="0/50", schema="public", table="users")
    assert (event.key, value(event)["op"], value(event)["before"], value(event)["after"]) == (None, "t", None, None)


def test_a_key_that_looks_secret_is_a_fault_unless_it_is_allowed_or_hashed() -> None:
    secret = Relation(USERS, (column("token"),), ("token",), primary=frozenset({"token"}))
    source = Source(name="shop", dsn=SecretStr("x"), hash_key=SecretStr("k"), tables=[SourceTable(name=USERS)])
    with pytest.raises(ConfigInvalid, match="token"):
        plan(source, SourceTable(name=USERS), secret)
    assert plan(source, SourceTable(name=USERS, allow=["token"]), secret).written() == ["token"]
    assert plan(source, SourceTable(name=USERS, hash=["token"]), secret).written() == ["token"]


def test_a_key_of_an_old_line_that_must_not_leave_is_a_fault_too() -> None:
    lines = Lines(relation(column("token")), mask=["email"])
    lines.begin()
    lines.row("I", {"id": 1, "email": "a", "token": "t"})
    for key in ("token", "email"):
        with pytest.raises(ConfigInvalid, match=key):
            lines.row("U", {"id": 1, "email": "a", "token": "t"}, {key: "t"}, pk=[{"name": key}])


def test_a_value_that_can_not_be_written_names_its_column_and_never_shows_it() -> None:
    lines = Lines(relation(column("born", "date")))
    lines.begin()
    for row in ({"id": 1, "email": "a", "born": "hidden"}, {"id": 1, "email": "a", "born": 17}):
        with pytest.raises(ChangeUndecodable, match=r"public\.users, column born") as caught:
            lines.row("U", row, {"id": 1})
        assert caught.value.fields == {"table": "public.users", "column": "born"}
        assert caught.value.__cause__ is None
    (event,) = lines.row("I", {"id": 2, "email": "b", "born": "1990-01-02"})
    assert value(event)["transaction"]["total_order"] == 1


def test_a_snapshot_row_that_can_not_be_written_names_its_column_and_never_shows_it() -> None:
    source = Source(name="shop", dsn=SecretStr("x"), tables=[SourceTable(name=USERS)])
    planned = plan(source, source.tables[0], relation(column("born", "date")))
    with pytest.raises(ChangeUndecodable, match=r"public\.users, column born") as caught:
        CopiedRows(planned).row(b"1\t\\N\thidden")
    assert caught.value.fields["length_bytes"] == len(b"1\t\\N\thidden")
    assert "hidden" not in str(caught.value)


def test_a_message_of_any_bytes_flows_and_stops_nobody() -> None:
    lines = Lines()
    for prefix, events in (("app", 1), ("pgherald", 0)):
        line = b'{"action":"M","lsn":"0/51","transactional":false,"prefix":"%b","content":"A\xff\\"\\n\\u0001\xc3\xa9"}'
        change = wal2json.decode(line % prefix.encode())
        found = lines.router.events(change, Position(100, 0), 1)
        assert len(found) == events
        for event in found:
            assert base64.b64decode(value(event)["message"]["content"]) == b'A\xff"\n\x01\xc3\xa9'


def test_a_change_outside_of_a_transaction_is_no_change_that_we_know() -> None:
    lines = Lines()
    with pytest.raises(ChangeUndecodable, match="outside of a transaction"):
        lines.row("I", {"id": 1, "email": "a"})


def test_commit_times_keep_their_microseconds() -> None:
    assert microseconds("1970-01-01 00:00:01.5+00") == 1_500_000
    assert microseconds("1970-01-01 00:01:00+00") == 60_000_000
    assert microseconds("2026-11-28 10:36:35.000001+00") == 1_795_862_195_000_001
    assert microseconds("2026-11-23 20:19:52.4647+00") % 1_000_000 == 464_700


def test_a_type_in_a_schema_that_needs_quotes_is_read_though_wal2json_writes_it_bare() -> None:
    given = [
        b'{"name":"a","type":"My ""S""".mood,"value":"x\\",\\"type\\":\\"y"}',
        b'{"name":"b","type":"My Schema"."Mo od(1,2)","value":null}',
    ]
    pk = b'{"name":"a","type":"My ""S""".mood}'
    line = b'{"action":"I","lsn":"0/1","schema":"s","table":"t","columns":[%b],"pk":[%b]}' % (b",".join(given), pk)
    change = wal2json.decode(line)
    assert isinstance(change, wal2json.Insert)
    assert [column.type for column in change.columns] == ['"My ""S""".mood', '"My Schema"."Mo od(1,2)"']
    assert bytes(change.columns[0].value) == b'"x\\",\\"type\\":\\"y"'


def test_a_value_that_is_not_utf8_is_not_passed_on() -> None:
    column = b'{"name":"a","type":"text","value":"\xff"}'
    with pytest.raises(ChangeUndecodable):
        wal2json.decode(b'{"action":"I","lsn":"0/1","schema":"s","table":"t","columns":[%b]}' % column)


@pytest.mark.parametrize("line", [b"", b"{", b'{"action":"X"}', b'{"action":"I"}', b'{"action":"B","xid":"\xff"}'])
def test_a_line_that_can_not_be_read_tells_its_length_and_never_its_content(line: bytes) -> None:
    with pytest.raises(ChangeUndecodable) as caught:
        wal2json.decode(line)
    assert caught.value.fields["length_bytes"] == len(line)
    assert "action" not in str(caught.value)
