"""How long the reader waits behind a commit: as long as the broker needs for its markers, by what sending takes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from cdc.markers import Markers

TURNED_AWAY_S = 0.020


def turned_away(markers: Markers, markers_s: Callable[[], float], sending_s: float, rounds: int) -> int:
    """Count how often a broker that needs so long for its markers turns a transaction away, of so many."""
    count = 0
    for _ in range(rounds):
        early = markers.pause_s < markers_s()
        count += early
        markers.note(sending_s + TURNED_AWAY_S * early)
    return count


@pytest.mark.parametrize("median_ms", [1, 3, 6])
@pytest.mark.parametrize("sending_ms", [3, 50])
def test_few_are_turned_away_and_no_longer_is_waited_than_for_that(median_ms: float, sending_ms: float) -> None:
    markers, dice = Markers(), random.Random(7)

    def markers_s() -> float:
        return dice.lognormvariate(0, 0.15) * median_ms / 1e3

    turned_away(markers, markers_s, sending_ms / 1e3, 1000)
    assert turned_away(markers, markers_s, sending_ms / 1e3, 2000) < 120
    assert markers.pause_s < 1.8 * median_ms / 1e3


def test_a_broker_that_got_slower_at_its_markers_is_followed_within_a_few_transactions() -> None:
    markers = Markers()
    assert turned_away(markers, lambda: 0.001, 0.005, 500) < 40
    assert 0 < turned_away(markers, lambda: 0.006, 0.005, 100) < 20


def test_a_broker_that_is_back_from_a_bad_time_is_believed_to_be() -> None:
    markers = Markers()
    assert turned_away(markers, lambda: 1.0, 0.005, 5000) == 5000
    turned_away(markers, lambda: 0.003, 0.005, 1000)
    assert turned_away(markers, lambda: 0.003, 0.005, 1000) < 60


def test_a_broker_that_takes_long_for_everything_is_sometimes_waited_for_and_sometimes_not() -> None:
    markers, pauses_s = Markers(), []
    for _ in range(2000):
        markers.note(0.060)
        pauses_s.append(markers.pause_s)
    assert min(pauses_s) < 0.001
    assert max(pauses_s) > 0.007


def test_whatever_is_noted_the_pause_is_shorter_than_being_turned_away() -> None:
    markers = Markers()
    for late in range(1000):
        markers.note(0.005 + late % 2)
    assert 0 < markers.pause_s < TURNED_AWAY_S / 2
