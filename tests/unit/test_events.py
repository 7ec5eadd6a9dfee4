"""Reading records: every record is an event, nothing, or an undecodable one with its reason."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.contract.envelope import Envelope, Source, decode
from consumers.events import Event, Record, Undecodable, changed, kind_of, read

SOURCE = {"name": "app", "ts_ms": 1_700_000_000_123, "schema": "public", "table": "User"}
ID = "app:1:00000000000000ff:3"
HEADERS = [("pgherald-event-id", ID.encode()), ("pgherald-schema", b"1")]


def record(value: Any = None, *, key: bytes | None = b'{"id":"a"}', headers: Any = None, **envelope: Any) -> Record:
    if value is None:
        value = json.dumps({"op": "c", "source": SOURCE, "before": None, "after": {"id": "a"}} | envelope).encode()
    return Record("app.public.User", 2, 7, 1_700_000_000_000, key, value, HEADERS if headers is None else headers)


def event(**given: Any) -> Event:
    found = read(record(**given))
    assert isinstance(found, Event)
    return found


def reason(found: object) -> str:
    assert isinstance(found, Undecodable)
    assert found.id == "app.public.User:2:7"
    return str(found.error)


def test_an_insert_is_created() -> None:
    found = event()
    assert (found.id, found.key, found.kind, found.notify) == (ID, '{"id":"a"}', "created", True)
    assert (found.position.lsn, found.position.index) == (255, 3)
    assert found.committed_at.isoformat() == "2023-11-14T22:13:20.123000+00:00"


@pytest.mark.parametrize(
    ("op", "header", "kind"),
    [
        ("c", None, "created"),
        ("c", "__debezium.oldkey", "changed"),
        ("u", None, "changed"),
        ("d", None, "deleted"),
        ("d", "__debezium.newkey", None),
        ("r", None, "snapshot"),
        ("t", None, None),
        ("m", None, None),
    ],
)
def test_the_kind_is_told_by_op_and_debeziums_headers(op: str, header: str | None, kind: str | None) -> None:
    headers = [*HEADERS, (header, b'{"id":"b"}')] if header else HEADERS
    found = read(record(op=op, headers=headers))
    assert (found.kind if isinstance(found, Event) else found) == kind


@pytest.mark.parametrize("wrong", [{"table": "logins"}, {"schema": "audit"}, {"schema": "", "table": "public.User"}])
def test_an_envelope_in_another_tables_topic_is_none_and_not_silently_nobodys(wrong: dict[str, str]) -> None:
    assert reason(read(record(source=SOURCE | wrong))) == "the envelope is of another table than its topic"


@pytest.mark.parametrize(
    ("op", "event_id", "kind"),
    [
        ("c", ID, "created"),
        ("c", ID + ":c", "changed"),
        ("d", ID + ":d", None),
        ("d", ID, "deleted"),
        ("u", ID, "changed"),
    ],
)
def test_the_kind_is_told_by_the_event_id_when_headers_are_gone(op: str, event_id: str, kind: str | None) -> None:
    assert kind_of(event(op="c", headers=[("pgherald-event-id", ID.encode()), HEADERS[1]]).envelope, ID) == "created"
    if op in "cu":
        assert kind_of(event(op=op).envelope, event_id) == kind


def test_a_tombstone_is_nothing() -> None:
    assert read(Record("t", 0, 0, 0, b"{}", None, [])) is None


def test_a_key_change_keeps_the_old_key_as_the_old_row() -> None:
    headers = [*HEADERS, ("__debezium.oldkey", b'{"id":"old"}')]
    found = event(headers=headers, after={"id": "new", "n": 1})
    assert found.envelope.before == {"id": "old"}
    assert changed(found.envelope) == {"id": "old"}
    stored = json.loads(found.value)
    assert (stored["before"], stored["after"]) == ({"id": "old"}, {"id": "new", "n": 1})


def test_a_deleted_row_that_is_whole_stays_so_when_its_headers_are_gone() -> None:
    row = {"id": "a", "email": None}
    bare, whole = (
        event(op="d", before=row, after=None, headers=[*HEADERS, *more]) for more in ([], [("pgherald-old-row", b"1")])
    )
    assert not bare.envelope.old_row_whole
    assert whole.envelope == decode(whole.value)
    assert (whole.envelope.old_row_whole, whole.envelope.before) == (True, row)


def test_the_value_is_kept_to_the_byte() -> None:
    value = (
        json.dumps({"op": "c", "source": SOURCE, "after": {"n": 1.10}})
        .encode()
        .replace(b"1.1", b"1.1000000000000000001")
    )
    assert event(value=value).value == value


def test_a_silent_transaction_says_so() -> None:
    assert not event(headers=[*HEADERS, ("pgherald-notify", b"0")]).notify


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"value": b"\x00\xff"}, "no envelope"),
        ({"value": b""}, "no envelope"),
        ({"value": b"[" * 100_000}, "no envelope"),
        ({"value": b'{"op":"c"}'}, "no envelope"),
        ({"op": "x"}, "no envelope"),
        ({"key": b"\xff"}, "key is not text"),
        ({"key": b"a\x00b"}, "key is not text"),
        ({"headers": []}, "pgherald-schema is missing"),
        ({"headers": [HEADERS[0], ("pgherald-schema", b"2")]}, "pgherald-schema is missing or not 1"),
        ({"headers": [HEADERS[1]]}, "pgherald-event-id is missing"),
        ({"headers": [HEADERS[1], ("pgherald-event-id", None)]}, "pgherald-event-id is missing"),
        ({"headers": [HEADERS[1], ("pgherald-event-id", b"nonsense")]}, "not an event id"),
        ({"headers": [HEADERS[1], ("pgherald-event-id", b"\x00\xff")]}, "no event id"),
        ({"headers": [HEADERS[1], ("pgherald-event-id", b"a:1:" + b"f" * 17 + b":1")]}, "out of range"),
        ({"headers": [HEADERS[1], ("pgherald-event-id", b"a:1:0f:-1")]}, "out of range"),
        ({"source": SOURCE | {"ts_ms": 10**18}}, "time of the commit"),
        ({"headers": [*HEADERS, ("__debezium.oldkey", b"[1]")]}, "oldkey is no key"),
    ],
)
def test_what_is_no_event_says_why(given: dict[str, Any], words: str) -> None:
    assert words in reason(read(record(**given)))


def test_an_undecodable_record_keeps_its_bytes_and_a_key_that_is_text() -> None:
    found = read(record(value=b"\x00secret"))
    assert isinstance(found, Undecodable)
    assert (found.value, found.key) == (b"\x00secret", '{"id":"a"}')
    assert "secret" not in str(found.error)


@given(
    value=st.binary(max_size=200) | st.none(),
    key=st.binary(max_size=20) | st.none(),
    timestamp=st.integers(-1, 2**63 - 1),
    headers=st.lists(st.tuples(st.sampled_from([name for name, _ in HEADERS]), st.binary(max_size=40))),
)
def test_no_record_raises(
    value: bytes | None, key: bytes | None, timestamp: int, headers: list[tuple[str, bytes]]
) -> None:
    found = read(Record("t", 0, 0, timestamp, key, value, headers))
    assert found is None if value is None else found is None or isinstance(found, Event | Undecodable)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, {"plan": "pro"}, {}),
        ({"plan": "free"}, None, {}),
        ({"plan": "free", "n": 1}, {"plan": "pro", "n": 1}, {"plan": "free"}),
        ({"plan": None}, {"plan": "pro"}, {"plan": None}),
        ({"plan": "pro"}, {"plan": None}, {"plan": "pro"}),
        ({"bio": "long"}, {"bio": "__debezium_unavailable_value"}, {}),
        ({"gone": 1}, {"new": 2}, {}),
    ],
)
def test_changed_holds_the_previous_values_of_what_changed(before: Any, after: Any, expected: Any) -> None:
    assert changed(event(op="u", before=before, after=after).envelope) == expected


def test_a_row_that_was_read_again_after_a_lost_slot_is_history_unless_recover_planned_it() -> None:
    again = Envelope("r", Source("shop", 1, "public", "users", snapshot="recovery"), after={"id": 1})
    assert kind_of(again, "shop:2:snapshot:0000000000000010:public.users:0123456789abcdef") == "snapshot"
    assert kind_of(again, "shop:2:recovery:public.users:0123456789abcdef") == "created"
