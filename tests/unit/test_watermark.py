"""Which rows of a chunk the stream has overtaken."""

import json

import pytest

from cdc import watermark
from cdc.contract.envelope import HEADER_OLD_KEY, UNAVAILABLE
from cdc.contract.event import Event, Headers
from cdc.contract.xid import Seen
from cdc.watermark import Created, Window

TOPIC = "t.public.users"
#: A chunk's snapshot: 99 and before are seen, 97 was running, 100 came later.
SEEN = Seen.parse("97:100:97")
ROWS = {b"1": b'{"id":1,"n":0,"bio":"long"}', b"2": b'{"id":2,"n":0,"bio":"long"}'}


def event(op: str, key: bytes | None, topic: str = TOPIC, headers: Headers | None = None, **after: object) -> Event:
    return Event(topic, key, json.dumps({"after": after}).encode(), headers or [], "public.users", op)


def left(window: Window, visible: Seen = SEEN) -> set[bytes]:
    return set(window.still_true(visible, TOPIC, ROWS))


@pytest.mark.parametrize(
    ("xid", "passed", "expected"),
    [
        (98, event("u", b"1", n=1), {b"1", b"2"}),  # the chunk has seen it
        (100, event("u", b"1", n=1), {b"2"}),
        (97, event("u", b"1", n=1), {b"2"}),  # in the WAL already, and not visible when the chunk was read
        (100, event("d", b"2"), {b"1"}),
        (100, event("tombstone", b"2"), {b"1", b"2"}),
        (100, event("c", b"3", n=1), {b"1", b"2"}),
        (100, event("u", b"1", topic="t.public.other"), {b"1", b"2"}),
        (100, event("t", None), set()),
        (100, event("c", None), {b"1", b"2"}),
    ],
)
def test_a_row_that_changed_behind_the_chunk_is_left_out(xid: int, passed: Event, expected: set[bytes]) -> None:
    window = Window()
    window.passed(xid, [passed])
    assert left(window) == expected


def test_a_row_whose_toasted_value_only_the_chunk_has_comes_as_the_stream_left_it() -> None:
    window = Window()
    window.passed(100, [event("u", b"1", id=1, n=1, bio=UNAVAILABLE)])
    window.passed(101, [event("u", b"1", id=1, n=2, bio=UNAVAILABLE)])
    window.passed(102, [event("u", b"2", id=2, n=1, bio=UNAVAILABLE), event("u", b"2", id=2, n=2, bio="new")])
    assert window.still_true(SEEN, TOPIC, ROWS) == {b"1": b'{"id":1,"n":2,"bio":"long"}'}


def test_what_a_snapshot_has_seen_is_forgotten_and_nothing_else() -> None:
    window = Window()
    window.passed(98, [event("d", b"1")])
    window.passed(97, [event("d", b"2")])
    window.forget(SEEN)
    assert left(window, Seen.parse("1:5:")) == {b"1"}
    window.passed(99, [event("d", b"1")])  # seen: not even noted
    assert left(window, Seen.parse("1:5:")) == {b"1"}


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let only so many places be remembered."""
    monkeypatch.setattr(watermark, "_MAX_PLACES", 100)
    return 100


def test_more_than_can_be_remembered_is_said(places: int) -> None:
    window = Window()
    said = []
    for events in ([event("d", b"%d" % number) for number in range(places)], [event("d", b"-")], []):
        window.passed(100, events)
        window.forget(Seen.parse("50:50:"))
        said.append(window.overflown)
    assert said == [False, True, True]


@pytest.mark.parametrize(
    ("published", "known"),
    [
        ([event("c", b"1")], {b"1"}),
        ([event("u", b"1")], set()),  # it was there before, and nobody was told of it as created
        ([event("c", b"1"), event("u", b"1"), event("c", b"2")], {b"1", b"2"}),
        ([event("c", b"1"), event("d", b"1")], set()),
        ([event("c", b"1"), event("d", b"1"), event("tombstone", b"1"), event("c", b"1")], {b"1"}),
        ([event("c", b"1"), event("t", None), event("c", b"2")], {b"2"}),
        ([event("c", b"1", headers=[(HEADER_OLD_KEY, b"0")])], set()),
        ([event("c", b"1", topic="t.public.other"), event("c", None)], set()),
    ],
)
def test_a_row_that_the_stream_brought_as_created_is_known(published: list[Event], known: set[bytes]) -> None:
    created = Created()
    created.published(published)
    assert set(created.of(TOPIC)) == known


def test_a_table_that_is_asked_for_anew_brings_every_row_and_not_more_is_held_than_fits(places: int) -> None:
    created = Created()
    created.published(event("c", b"%d" % number) for number in range(places + 1))
    assert len(created.of(TOPIC)) == places
    created.forget(TOPIC)
    assert not created.of(TOPIC)
