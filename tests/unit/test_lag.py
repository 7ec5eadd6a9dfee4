"""How far Kafka is behind, and what threatens the slot."""

from __future__ import annotations

import pytest

from cdc.lag import Lag
from cdc.measure import danger

SECOND = 1_000_000


def test_the_oldest_change_that_is_not_in_kafka_is_the_lag() -> None:
    lag = Lag()
    assert lag.seconds(100) == 0
    lag.read(90 * SECOND)
    lag.read(95 * SECOND)
    assert lag.seconds(100) == 10
    lag.published(95 * SECOND)
    assert lag.seconds(100) == 5
    lag.caught_up()
    assert lag.seconds(100) == 0


def test_a_clock_that_is_behind_gives_no_negative_lag() -> None:
    lag = Lag()
    lag.read(101 * SECOND)
    assert lag.seconds(100) == 0


@pytest.mark.parametrize(
    ("wal_status", "retained", "safe", "told"),
    [
        ("reserved", 10, 90, ""),
        ("extended", 50, 50, ""),
        ("extended", 51, 49, "half of the WAL"),
        ("unreserved", 101, -1, "next checkpoint may remove"),
        ("lost", None, None, "slot recover"),
        ("missing", None, None, ""),
        ("reserved", 11 * 1024**3, None, "without a limit"),
        ("reserved", 1024**3, None, ""),
    ],
)
def test_a_slot_in_danger_is_told_before_it_is_lost(
    wal_status: str, retained: int | None, safe: int | None, told: str
) -> None:
    warning = danger({"wal_status": wal_status, "retained_bytes": retained, "safe_wal_bytes": safe})
    assert told in warning
    assert bool(told) is bool(warning)
