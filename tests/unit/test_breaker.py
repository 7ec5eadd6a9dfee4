"""What a batch of outcomes says about its lanes."""

from datetime import UTC, datetime

from cdc.contract.envelope import Envelope, Source
from consumers.breaker import tally
from consumers.delivery import Delivery, Mark
from consumers.outcome import Dead, Outcome, Pause, Retry, Sent, Skipped

NOW = datetime(2026, 11, 25, tzinfo=UTC)
ERROR: dict[str, object] = {"class": "TemplateInvalid", "code": None, "reason": "line 3"}
DEAD = Dead(ERROR, "TemplateInvalid")


def mark(became: Outcome, key: str | None = "a", lane: str = "mail:welcome") -> Mark:
    change = Envelope("c", Source("t", 1, "public", "users"))
    delivery = Delivery(7, "mail", "t:1:1:1", "welcome", "welcome", lane, key, 1, 0, NOW, NOW, change)
    return Mark(delivery, became, "me")


def test_failures_behind_the_last_success_count() -> None:
    found = tally([mark(DEAD, "a"), mark(Sent({}), "b"), mark(DEAD, "c"), mark(Retry(1, ERROR, "KeyError"), "d")])
    assert found["mail:welcome"].failed == [("TemplateInvalid", "c"), ("KeyError", "d")]


def test_what_says_nothing_about_others_neither_counts_nor_clears() -> None:
    own: list[Outcome] = [Dead(ERROR), Retry(1, ERROR), Pause(1, ERROR), Skipped(ERROR)]
    found = tally([mark(DEAD, "a"), *(mark(each, "b") for each in own)])
    assert found["mail:welcome"].failed == [("TemplateInvalid", "a")]


def test_a_lane_knows_nothing_of_another_and_they_come_sorted() -> None:
    found = tally([mark(DEAD, lane="service:b"), mark(Sent({}), lane="service:a"), mark(DEAD, lane="service:b")])
    assert list(found) == ["service:a", "service:b"]
    assert [len(tally.failed) for tally in found.values()] == [0, 2]


def test_without_a_key_each_delivery_is_someone_else() -> None:
    assert tally([mark(DEAD, None)])["mail:welcome"].failed == [("TemplateInvalid", "7")]
