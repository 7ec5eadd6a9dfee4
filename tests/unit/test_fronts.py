"""Where claims begin to look."""

from datetime import UTC, datetime, timedelta

import pytest

from consumers import fronts
from consumers.fronts import Fronts

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_a_claim_begins_a_minute_before_the_end_of_the_last_one_of_its_lane() -> None:
    known = Fronts()
    assert known.sinces(["a", "b"]) == ["-infinity", "-infinity"]
    known.claimed([("a", NOON), ("a", NOON - timedelta(hours=1))])
    assert known.sinces(["a", "b"]) == [(NOON - timedelta(minutes=1)).isoformat(), "-infinity"]


def test_a_claim_looks_everywhere_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "_EVERYWHERE_S", 0.0)
    known = Fronts()
    known.claimed([("a", NOON)])
    assert known.sinces(["a"]) == ["-infinity"]
