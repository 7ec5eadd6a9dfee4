"""From plans to services."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.contract.envelope import UNAVAILABLE, Envelope, Source
from consumers.services.plans import calls, difference, of_envelope, services_of

PLANS = {"free": ["newsletter"], "pro": ["newsletter", "storage"], "none": [], "twice": ["storage", "storage"]}
plan = st.sampled_from([*PLANS, "unknown"]) | st.none()


@pytest.mark.parametrize(
    ("kind", "previous", "current", "expected"),
    [
        ("created", None, "free", ["newsletter+"]),
        ("created", None, "pro", ["newsletter+", "storage+"]),
        ("created", None, "none", []),
        ("created", None, "unknown", []),
        ("created", None, None, []),
        ("created", None, "twice", ["storage+"]),
        ("changed", "free", "pro", ["storage+"]),
        ("changed", "pro", "free", ["storage-"]),
        ("changed", "pro", "pro", []),
        ("changed", "free", "twice", ["newsletter-", "storage+"]),
        ("changed", None, "free", ["newsletter+"]),
        ("changed", "pro", None, ["newsletter-", "storage-"]),
        ("changed", "unknown", "free", ["newsletter+"]),
        ("deleted", "pro", None, ["newsletter-", "storage-"]),
        ("deleted", "pro", "pro", ["newsletter-", "storage-"]),
        ("deleted", None, None, []),
        ("snapshot", None, "pro", []),
        (None, "pro", "free", []),
    ],
)
def test_an_event_subscribes_and_unsubscribes_by_difference(
    kind: str | None, previous: str | None, current: str | None, expected: list[str]
) -> None:
    found = calls(kind, previous, current, PLANS)
    assert [name + ("+" if call == "subscribe" else "-") for name, call in found] == expected


@given(kind=st.sampled_from(["created", "changed", "deleted"]), previous=plan, current=plan)
def test_the_calls_lead_from_the_services_before_to_those_after_and_name_each_once(
    kind: str, previous: str | None, current: str | None
) -> None:
    before = set() if kind == "created" else set(services_of(previous, PLANS))
    after = set() if kind == "deleted" else set(services_of(current, PLANS))
    found = calls(kind, previous, current, PLANS)
    assert len(dict(found)) == len(found)
    gone = {name for name, call in found if call == "unsubscribe"}
    come = {name for name, call in found if call == "subscribe"}
    assert (before - gone) | come == after
    assert gone <= before
    assert not come & before


@given(st.lists(st.text()), st.lists(st.text()))
def test_a_difference_keeps_the_order_it_was_given(before: list[str], after: list[str]) -> None:
    assert difference(before, after) == (
        [name for name in before if name not in after],
        [name for name in after if name not in before],
    )


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, {"plan": "pro"}, (None, "pro")),
        ({"plan": "free"}, {"plan": "pro"}, ("free", "pro")),
        ({"plan": "free"}, {"plan": UNAVAILABLE}, ("free", "free")),
        ({"plan": UNAVAILABLE}, {"plan": "pro"}, (None, "pro")),
        ({"plan": "pro"}, None, ("pro", None)),
        ({"id": "a"}, {"id": "b", "plan": "pro"}, (None, "pro")),
        ({"plan": None}, {"plan": 7}, (None, "7")),
        ({"id": "a"}, {"id": "a"}, (None, None)),
        (None, None, (None, None)),
    ],
)
def test_plans_are_read_from_the_rows_and_what_is_not_known_is_none(
    before: dict[str, Any] | None, after: dict[str, Any] | None, expected: tuple[str | None, str | None]
) -> None:
    assert of_envelope(Envelope("u", Source("app", 0, "public", "User"), before, after), "plan") == expected
