"""Which rows are looked for again because they moved before they were read."""

import json

import pytest

from cdc.contract.envelope import HEADER_NEW_KEY, HEADER_OLD_KEY, UNAVAILABLE
from cdc.contract.event import Event, Headers
from cdc.moved import _MAX_KEYS, Moved

TOPIC = "t.public.users"
WIDE, GONE = "long", UNAVAILABLE


def event(op: str, key: bytes | None, bio: str = WIDE, headers: Headers | None = None) -> Event:
    return Event(TOPIC, key, json.dumps({"after": {"bio": bio}}).encode(), headers or [], "public.users", op)


def moves(old: bytes, new: bytes, bio: str = GONE) -> list[Event]:
    return [
        event("d", old, headers=[(HEADER_NEW_KEY, new)]),
        Event(TOPIC, old, None, [(HEADER_NEW_KEY, new)], "public.users", "tombstone"),
        event("c", new, bio, [(HEADER_OLD_KEY, old)]),
    ]


def looked_for(moved: Moved) -> set[bytes]:
    return {key for key in (b"1", b"2", b"3") if moved.lacks(TOPIC, key)}


@pytest.mark.parametrize(
    ("published", "lacking"),
    [
        (moves(b"1", b"2"), {b"2"}),
        (moves(b"1", b"2", WIDE), set()),
        (moves(b"1", b"2") + moves(b"2", b"3"), {b"3"}),
        (moves(b"1", b"2") + moves(b"2", b"3", WIDE), set()),
        ([*moves(b"1", b"2"), event("u", b"2", GONE)], {b"2"}),
        ([*moves(b"1", b"2"), event("u", b"2")], set()),
        ([*moves(b"1", b"2"), event("r", b"2")], set()),
        ([*moves(b"1", b"2"), event("d", b"2")], set()),
        ([*moves(b"1", b"2"), event("d", b"2"), event("c", b"2")], set()),
        ([*moves(b"1", b"2"), event("t", None), *moves(b"1", b"3")], {b"3"}),
        ([event("u", b"1", GONE), event("c", b"2"), event("c", None)], set()),
    ],
)
def test_a_row_that_came_under_another_key_is_lacking_until_it_is_told_whole(
    published: list[Event], lacking: set[bytes]
) -> None:
    moved = Moved()
    moved.published(published)
    assert looked_for(moved) == lacking
    assert moved.seek(TOPIC) is bool(lacking)
    assert looked_for(moved) == lacking
    assert not moved.seek("t.public.other")


def test_of_a_table_that_was_read_only_what_is_looked_for_is_followed() -> None:
    moved = Moved()
    moved.published(moves(b"0", b"1") + moves(b"0", b"2"))
    assert moved.seek(TOPIC)
    moved.published(moves(b"9", b"8") + moves(b"1", b"3"))
    assert not moved.lacks(TOPIC, b"8")
    assert looked_for(moved) == {b"2", b"3"}
    moved.told(TOPIC, [b"3", None])
    assert looked_for(moved) == {b"2"}
    # What was not met is not there, or is none of the rows that were asked for.
    assert not moved.seek(TOPIC)
    assert looked_for(moved) == set()
    moved.stop(TOPIC)
    moved.published(moves(b"9", b"1"))
    assert looked_for(moved) == {b"1"}


def test_when_a_table_that_is_looked_through_is_emptied_nothing_is_looked_for() -> None:
    moved = Moved()
    moved.published(moves(b"0", b"1"))
    moved.seek(TOPIC)
    moved.published([event("t", None), *moves(b"9", b"2")])
    assert looked_for(moved) == set()


def test_where_more_rows_moved_than_can_be_remembered_every_row_is_looked_for() -> None:
    moved = Moved()
    for number in range(_MAX_KEYS + 1):
        moved.published(moves(b"0", b"-%d" % number))
    assert moved.seek(TOPIC)
    assert looked_for(moved) == {b"1", b"2", b"3"}
    moved.told(TOPIC, [b"1"])
    moved.published([event("u", b"1"), *moves(b"9", b"8", WIDE)])
    assert not moved.seek(TOPIC)
    moved.stop(TOPIC)
    assert looked_for(moved) == set()
