"""From an event to planned deliveries."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.contract.envelope import UNAVAILABLE, Envelope, Source
from cdc.contract.position import Position
from cdc.runtime.errors import ConfigInvalid, EnvelopeInvalid, PermanentError, TemplateInvalid
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery, Planned
from consumers.events import Event, Kind, kind_of
from consumers.outcome import SkipDelivery
from consumers.rules import Rules, names

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ID = "app:1:00000000000000ff:3"
ADA = {"id": "a", "email": "ada@example.org", "name": "Ada", "plan": "free"}


def settings(*rules: dict[str, Any]) -> Settings:
    service = {"url": "https://s.example.org", "secret": "whsec_" + "a" * 32}
    return Settings.model_validate(
        {
            "source": {"name": "app", "dsn": "", "tables": [{"name": 'public."User"'}, {"name": "logins"}]},
            "kafka": {"bootstrap_servers": "127.0.0.1:9092"},
            "smtp": {"host": "127.0.0.1", "sender": "app@example.org"},
            "user": {"email": "email", "name": "name", "plan": "plan"},
            "plans": {"free": ["newsletter"], "pro": ["newsletter", "storage"]},
            "services": {"newsletter": service, "storage": service},
            "rules": list(rules),
        }
    )


def welcome(**given: Any) -> dict[str, Any]:
    return {"name": "welcome", "on": "created", "mail": "welcome"} | given


def plans(**given: Any) -> dict[str, Any]:
    return {"name": "plans", "on": ["created", "changed:plan", "deleted"], "services": "plans"} | given


def event(
    op: Any = "c", *, kind: Kind | None = None, table: str = "User", age: timedelta = timedelta(), **given: Any
) -> Event:
    given = {"after": ADA} | given
    at = NOW - age
    source = Source("app", int(at.timestamp() * 1000), "public", table)
    envelope = Envelope(op, source, given.get("before"), given["after"], bool(given.get("whole")))
    notify = bool(given.get("notify", True))
    found = kind or kind_of(envelope, ID)
    assert found
    return Event(ID, '{"id":"a"}', found, Position(255, 3), at, envelope, b"", notify)


def planned(rule: dict[str, Any], about: Event) -> list[Planned]:
    consumer = "mail" if "mail" in rule else "services"
    return Rules(settings(rule), consumer).plan(about, NOW)


def outcomes(rule: dict[str, Any], about: Event) -> list[tuple[str, str, object]]:
    return [(each.target, each.state, (each.error or {}).get("reason")) for each in planned(rule, about)]


SENT = [("welcome", "pending", None)]


def delivery(about: Event, rule: str = "welcome") -> Delivery:
    at = about.committed_at
    return Delivery(1, "mail", about.id, rule, rule, f"mail:{rule}", about.key, 1, 0, at, at, about.envelope)


def look(rule: dict[str, Any], about: Event) -> None:
    Rules(settings(rule), "mail").look(delivery(about))


def test_a_new_user_gets_the_mail() -> None:
    assert planned(welcome(), event()) == [Planned("welcome", "welcome", "mail:welcome")]


def test_one_event_makes_a_delivery_for_each_rule_that_names_it() -> None:
    rules = Rules(settings(welcome(), welcome(name="verify", mail="verify"), welcome(name="bye", on="deleted")), "mail")
    assert [each.rule for each in rules.plan(event(), NOW)] == ["welcome", "verify"]


@pytest.mark.parametrize(
    ("on", "about", "matches"),
    [
        ("created", event(), True),
        ("created", event("u", before=ADA), False),
        ("created", event(kind="changed", before={"id": "old"}), False),
        ("created", event("d", before=ADA, after=None), False),
        ("created", event("r"), False),
        ("created", event(table="logins"), False),
        ("created", event(table="other"), False),
        ("deleted", event("d", before=ADA, after=None), True),
        ("changed:plan", event("u", before=ADA | {"plan": "pro"}), True),
        ("changed:plan", event("u", before=ADA | {"name": "Eve"}), False),
        ("changed:plan", event("u", before=ADA, after=ADA | {"plan": UNAVAILABLE}), False),
        ("changed:nosuch", event("u", before=ADA), False),
        (["changed:name", "changed:plan"], event("u", before=ADA | {"name": "Eve"}), True),
        ("changed:id", event(kind="changed", before={"id": "old"}), True),
        ("changed:plan", event(kind="changed", before={"id": "old"}), False),
        ("changed:id", event("u", before=None), False),
    ],
)
def test_a_rule_sees_what_it_names(on: Any, about: Event, matches: bool) -> None:
    assert outcomes(welcome(on=on), about) == (SENT if matches else [])


@pytest.mark.parametrize("rule", [welcome(on="changed:plan"), plans(on="changed:plan")])
def test_without_the_old_row_a_change_is_planned_and_fails_at_the_last_look_with_the_statement(rule: Any) -> None:
    about = event("u", before=None)
    ((_, state, reason),) = outcomes(rule, about)
    assert (state, reason) == ("pending", None)
    with pytest.raises(EnvelopeInvalid) as failed:
        Rules(settings(rule), "mail" if "mail" in rule else "services").look(delivery(about, rule["name"]))
    assert str(failed.value) == (
        'whether plan changed can\'t be told without the old row. ALTER TABLE "public"."User" REPLICA IDENTITY FULL'
    )


@pytest.mark.parametrize("rule", [welcome(on="deleted"), plans()])
def test_a_deleted_row_of_which_only_the_key_is_left_fails_at_the_last_look_with_the_statement(rule: Any) -> None:
    about = event("d", before=dict.fromkeys(ADA) | {"id": "a"}, after=None)
    ((_, state, reason),) = outcomes(rule, about)
    assert (state, reason) == ("pending", None)
    with pytest.raises(EnvelopeInvalid, match=r"who was deleted can't be told .* REPLICA IDENTITY FULL"):
        Rules(settings(rule), "mail" if "mail" in rule else "services").look(delivery(about, rule["name"]))


def test_a_deleted_user_without_an_address_is_skipped() -> None:
    about = event("d", before=ADA | {"email": None}, after=None)
    assert outcomes(welcome(on="deleted"), about) == [("welcome", "skipped", "no_address")]


def test_a_deleted_row_that_held_nothing_but_its_key_is_what_it_is() -> None:
    nothing = event("d", before=dict.fromkeys(ADA) | {"id": "a"}, after=None, whole=True)
    assert outcomes(welcome(on="deleted"), nothing) == [("welcome", "skipped", "no_address")]
    assert outcomes(plans(), nothing) == []
    look(welcome(on="deleted"), nothing)


def test_services_that_can_not_be_told_have_a_lane_of_their_own() -> None:
    (each,) = planned(plans(on="changed:plan"), event("u", before=None))
    assert (each.target, each.lane) == ("(plans)", "service:(plans)")


def test_snapshot_rows_are_created_only_for_rules_that_ask() -> None:
    assert outcomes(welcome(include_snapshot=True), event("r")) == SENT
    assert outcomes(welcome(include_snapshot=True, on="deleted"), event("r")) == []


def test_rows_that_come_again_after_a_lost_slot_are_nobodys_news() -> None:
    first = event("r")
    source = msgspec.structs.replace(first.envelope.source, snapshot="recovery")
    again = replace(first, envelope=msgspec.structs.replace(first.envelope, source=source))
    assert outcomes(welcome(include_snapshot=True), again) == []


def test_a_snapshot_row_has_no_age() -> None:
    old = event("r", age=timedelta(days=300))
    assert outcomes(welcome(include_snapshot=True, max_age="1h"), old) == SENT


@pytest.mark.parametrize(
    ("rule", "about", "reason"),
    [
        (welcome(), event(notify=False), "notify_off"),
        (welcome(), event(age=timedelta(hours=24, seconds=1)), "too_old"),
        (welcome(max_age="1h"), event(age=timedelta(hours=2)), "too_old"),
        (welcome(), event(after=ADA | {"email": None}), "no_address"),
        (welcome(), event(after=ADA | {"email": " "}), "no_address"),
        (welcome(), event(after={"id": "a"}), "no_address"),
        (welcome(when="user.plan == 'pro'"), event(), "when"),
        (welcome(when="user.email.endswith('.com')"), event(after=ADA | {"email": None}), "no_address"),
    ],
)
def test_what_is_not_delivered_says_why(rule: dict[str, Any], about: Event, reason: str) -> None:
    assert outcomes(rule, about) == [("welcome", "skipped", reason)]


def test_services_are_called_whatever_the_age_unless_the_rule_says_so() -> None:
    old = event(age=timedelta(days=300))
    assert outcomes(plans(), old) == [("newsletter", "pending", None)]
    assert outcomes(plans(max_age="7d"), old) == [("newsletter", "skipped", "too_old")]


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("user.email", True),
        ("after.plan == 'free' and event.op == 'c'", True),
        ("event.table == 'public.User' and event.kind == 'created'", True),
        ("before is none", True),
        ("changed.plan is defined", False),
        ("not changed", True),
        ("event.committed_at.year >= 2026", True),
        ("user.locale", False),
    ],
)
def test_when_sees_the_names_of_templates(when: str, holds: bool) -> None:
    assert outcomes(welcome(when=when), event()) == (SENT if holds else [("welcome", "skipped", "when")])


def test_a_column_named_like_a_method_is_a_column() -> None:
    assert outcomes(welcome(when="after.items == 3"), event(after=ADA | {"items": 3})) == SENT


@pytest.mark.parametrize(
    ("when", "error"),
    [
        ("usr.email", "UndefinedError"),
        ("after.emial", "UndefinedError"),
        ("after[user.email]", "UndefinedError"),
        ("before.plan", "UndefinedError"),
        ("changed.plan == 'x'", "UndefinedError"),
        ("user.email > 3", "TypeError"),
        ("after.update({'x': 1})", "SecurityError"),
        ("user.__class__.__mro__", "SecurityError"),
    ],
)
def test_a_when_that_fails_is_planned_and_fails_at_the_last_look_without_a_value(when: str, error: str) -> None:
    assert outcomes(welcome(when=when), event()) == SENT
    with pytest.raises(TemplateInvalid) as failed:
        look(welcome(when=when), event())
    assert str(failed.value) == f"rules.welcome.when does not evaluate: {error} in {when}"


def test_a_when_that_fails_leaves_the_other_rules_alone() -> None:
    rules = Rules(settings(welcome(when="nosuch"), welcome(name="verify", mail="verify", when="false")), "mail")
    assert [each.state for each in rules.plan(event(), NOW)] == ["pending", "skipped"]


def test_the_last_look_is_by_the_rule_as_it_is_now() -> None:
    look(welcome(), event())
    look(welcome(when="user.plan == 'free'"), event())
    with pytest.raises(SkipDelivery, match=r"^when$"):
        look(welcome(when="user.plan == 'pro'"), event())


VERIFIED = ADA | {"verified": True}
STILL = "not row.verified and after.plan == user.plan and user.email == was.email"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ADA | {"verified": False}, None),
        (ADA | {"verified": False, "name": "Eve"}, None),
        (VERIFIED, "still"),
        (ADA | {"verified": False, "email": "eve@example.org"}, "still"),
        (None, "gone"),
    ],
)
def test_a_user_who_changed_or_is_gone_is_skipped_with_the_reason(row: Any, reason: str | None) -> None:
    rules = Rules(settings(welcome(still=STILL)), "mail")
    about = delivery(event(after=VERIFIED | {"verified": False}))
    assert rules.rereads(about)
    if reason is None:
        rules.look_again(about, row)
        return
    with pytest.raises(SkipDelivery, match=f"^{reason}$"):
        rules.look_again(about, row)


def test_a_still_that_fails_says_so_without_a_value() -> None:
    rules = Rules(settings(welcome(still="row.nosuch")), "mail")
    with pytest.raises(
        TemplateInvalid, match=r"^rules\.welcome\.still does not evaluate: UndefinedError in row\.nosuch$"
    ):
        rules.look_again(delivery(event()), ADA)


def test_without_still_no_row_is_read_again() -> None:
    assert not Rules(settings(welcome()), "mail").rereads(delivery(event()))


def test_a_deleted_row_can_not_be_read_again() -> None:
    with pytest.raises(ValueError, match="still: a deleted row"):
        settings(welcome(on=["created", "deleted"], still="row"))


def test_every_when_that_does_not_compile_is_named_at_start() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Rules(settings(welcome(when="a =="), welcome(name="verify", still="a b"), welcome(name="ok", when="a")), "mail")
    assert "rules.welcome.when" in caught.value.message
    assert "rules.verify.still" in caught.value.message
    assert "rules.ok" not in caught.value.message


@pytest.mark.parametrize(
    ("about", "targets"),
    [
        (event(after=ADA | {"plan": "pro"}), ["newsletter", "storage"]),
        (event(after=ADA | {"plan": None}), []),
        (event(after=ADA | {"plan": "unheard-of"}), []),
        (event("u", before=ADA, after=ADA | {"plan": "pro"}), ["storage"]),
        (event("u", before=ADA, after=ADA | {"name": "Eve"}), []),
        (event("d", before=ADA, after=None), ["newsletter"]),
    ],
)
def test_each_service_of_a_plan_is_a_delivery_in_its_own_lane(about: Event, targets: list[str]) -> None:
    found = planned(plans(), about)
    assert sorted(each.target for each in found) == targets
    assert all(each.lane == f"service:{each.target}" for each in found)


def test_names_of_a_deleted_user_come_from_the_old_row() -> None:
    about = event("d", before=ADA, after=None)
    user: Any = names(about.envelope, settings().user, about.id, about.key)["user"]
    assert (user.key, user.email, user.name, user.plan, user.locale) == (
        '{"id":"a"}',
        "ada@example.org",
        "Ada",
        "free",
        None,
    )


def test_a_value_that_is_not_in_the_wal_comes_from_the_old_row_or_is_none() -> None:
    about = event("u", before=ADA, after=ADA | {"name": UNAVAILABLE})
    seen: Any = names(about.envelope, settings().user, about.id, about.key)
    assert seen["user"].name == "Ada"
    about = event("u", before=None, after=ADA | {"name": UNAVAILABLE})
    assert names(about.envelope, settings().user)["user"].name is None  # type: ignore[attr-defined]


def test_a_user_has_text_whatever_the_columns_type() -> None:
    about = event(after={"id": 7, "email": "a@b", "name": 42, "plan": True})
    user: Any = names(about.envelope, settings().user)["user"]
    assert (user.name, user.plan) == ("42", "True")


values = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(UNAVAILABLE)
rows = st.dictionaries(st.sampled_from(["id", "email", "name", "plan", "x"]), values)


#: Rules hold nothing of what they have seen: these are for any number of events.
EVERY_KIND = settings(welcome(on=["created", "changed:name", "deleted"], when="user.email"), plans())
OF_CONSUMERS = [Rules(EVERY_KIND, consumer) for consumer in ("mail", "services")]
LOOKING = Rules(settings(welcome(on=["created", "changed:name"], when="user.email", still="row.x")), "mail")


@given(before=st.none() | rows, after=st.none() | rows, op=st.sampled_from("cudr"))
def test_any_rows_are_planned_without_an_error(before: Any, after: Any, op: str) -> None:
    about = event(op, before=before, after=after)
    for rules in OF_CONSUMERS:
        for each in rules.plan(about, NOW):
            assert each.state in ("pending", "skipped")
            assert (each.error is None) == (each.state == "pending")


@given(before=st.none() | rows, after=st.none() | rows, op=st.sampled_from("cudr"))
def test_the_last_look_passes_skips_or_says_what_is_wrong(before: Any, after: Any, op: str) -> None:
    about = delivery(event(op, before=before, after=after))
    with suppress(SkipDelivery, PermanentError):
        LOOKING.look(about)
    with suppress(SkipDelivery, PermanentError):
        LOOKING.look_again(about, after)
