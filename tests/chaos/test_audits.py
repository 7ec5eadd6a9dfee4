"""The auditors are audited: each violation that they look for is found, and a good run has none."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from consumers.services.signing import identity
from tests.chaos import capture_audit, deliveries_audit
from tests.chaos.capture_audit import Told
from tests.chaos.deliveries_audit import Row
from tests.chaos.rounds import Fault, Report, schedule
from tests.support.http import Endpoint, Request
from tests.support.smtp import Accepted, Relay

DECK = {"a": Fault(lambda _: None, 3), "b": Fault(lambda _: None), "c": Fault(lambda _: None)}


def report() -> Report:
    return Report(Console(file=io.StringIO()))


def kinds(told: Report) -> set[str]:
    return {violation.partition(":")[0] for violation in told.violations}


def test_a_seed_plays_the_same_schedule_again_and_each_deck_has_every_fault() -> None:
    def drawn(seed: int) -> list[tuple[str, float]]:
        return [(each.fault, each.chance.random()) for each in schedule(DECK, 20, seed)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    for first in range(0, 20, 5):
        assert sorted(fault for fault, _ in drawn(1)[first : first + 5]) == ["a", "a", "a", "b", "c"]


def told(lsn: int, op: str, key: int, offset: int, *, row: Any = None, digest: str = "", **more: Any) -> Told:
    id_ = f"t:1:{lsn:016x}:1{more.get('end', '')}"
    return Told("t", 0, offset, id_, op, f'{{"id":{key}}}', digest, row, more.get("new_key"), "")


def test_a_topic_is_replayed_through_key_changes_truncates_and_what_is_not_available() -> None:
    gone = "__debezium_unavailable_value"
    rows = capture_audit.replayed(
        [
            told(1, "c", 1, 0, row=(0, "a", "wide")),
            told(2, "t", 1, 1)._replace(key=None),
            told(3, "c", 1, 2, row=(0, "a", "wide")),
            told(4, "d", 1, 3, end=":d", new_key='{"id":2}'),
            told(4, "tombstone", 1, 4, end=":d"),
            told(4, "c", 2, 5, end=":c", row=(1, "a", gone)),
            told(5, "u", 2, 6, row=(2, "b", gone)),
            told(6, "c", 3, 7, row=(0, None, None)),
            told(7, "d", 3, 8),
        ]
    )
    assert rows == {'{"id":2}': (2, "b", "wide")}


def test_what_is_lost_invented_or_told_otherwise_is_found() -> None:
    found = report()
    topic = [told(1, "c", 1, 0, digest="one"), told(2, "c", 2, 1, digest="otherwise"), told(4, "c", 4, 2)]
    expected = {(each.event_id, "c"): digest for each, digest in zip(topic[:2], ("one", "two"), strict=True)}
    capture_audit.compare(found, topic, expected | {("t:1:0000000000000003:1", "c"): "three"})
    assert kinds(found) == {
        "committed and not in Kafka",
        "in Kafka and not committed",
        "events that tell something else than was written",
    }


def row(lsn: int, state: str = "sent", rule: str = "welcome", lane: str = "mail:welcome", **more: Any) -> Row:
    made = Row(f"t:1:{lsn:016x}:1", rule, "welcome", lane, "k", state, 100.0, None, None)
    return made._replace(message_id=made.expected_message_id if state == "sent" else None)._replace(**more)


def mail(of: Row, at: float = 99.0) -> Accepted:
    return Accepted("a", ("b",), f"Message-ID: {of.expected_message_id}\r\n\r\n".encode(), at)


def audited(found: list[Row], mails: list[Accepted], left_open: list[Accepted] = [], refused: int = 0) -> set[str]:  # noqa: B006
    relay, told_of = Relay(), report()
    relay.accepted, relay.left_open = mails, [each.content for each in left_open]
    wanted = {each.identity: each.state == "skipped" for each in found}
    deliveries_audit.audit(told_of, wanted, found, relay, Endpoint(), refused)
    return kinds(told_of)


def test_a_good_run_of_the_consumers_violates_nothing() -> None:
    sent, skipped, unknown, dead = row(1), row(2, "skipped"), row(3, "unknown"), row(4, "dead", code="550 5.1.1")
    assert audited([sent, skipped, unknown, dead], [mail(sent)], [mail(unknown)], refused=1) == set()


@pytest.mark.parametrize(
    ("found", "mails", "violation"),
    [
        ([row(1, "claimed")], [], "without an end"),
        ([row(1)], [], "sent and not at the relay"),
        ([row(1)], [mail(row(1)), mail(row(1))], "mailed twice"),
        ([row(1, rule="verify")], [mail(row(1, rule="verify"))] * 2, "resent without doubt"),
        ([row(1, "unknown", finished_at=50.0)], [mail(row(1))], "mailed after the end was decided"),
        ([row(1, "unknown")], [], "in doubt without reason"),
        ([row(1, "dead", code="550")], [], "more are dead than were refused"),
        ([row(1, "dead", code="451")], [], "dead without a refusal"),
        ([row(1), row(2)], [mail(row(2)), mail(row(1))], "mails out of order"),
        ([], [mail(row(1))], "mails that no delivery explains"),
    ],
)
def test_what_violates_the_guarantees_of_deliveries_is_found(
    found: list[Row], mails: list[Accepted], violation: str
) -> None:
    assert violation in audited(found, mails)


def test_only_the_first_of_a_call_counts_for_the_order() -> None:
    calls = [row(lsn, rule="plans", lane="service:newsletter", target="newsletter") for lsn in (1, 2)]
    endpoint, found = Endpoint(), report()

    def arrived(*places: int) -> list[Request]:
        ids = [identity(*calls[place].identity) for place in places]
        return [Request("/newsletter", {"webhook-id": id_}, b"", 1.0) for id_ in ids]

    endpoint.requests = arrived(0, 1, 0)
    deliveries_audit.audit_calls(found, calls, endpoint)
    assert found.violations == []
    endpoint.requests = arrived(1, 0)
    deliveries_audit.audit_calls(found, calls, endpoint)
    assert kinds(found) == {"calls out of order"}
