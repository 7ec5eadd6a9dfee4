"""One that is lost, and everyone."""

import random

import pytest

from cdc.runtime.errors import Deferred, DependencyDown, RetryableError
from consumers.losses import Losses
from consumers.outcome import NotYet


def lose(losses: Losses, identity: str) -> type[RetryableError]:
    return type(losses.judge(DependencyDown("503"), identity))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_a_relay_that_throttles_by_chance_makes_hardly_anyone_spend_an_attempt(share: float) -> None:
    chance, losses, waiting, spent = random.Random(7), Losses(), [str(number) for number in range(3000)], set()
    while waiting:
        who = waiting.pop(0)
        if chance.random() >= share:
            losses.taken(who)
            continue
        waiting.append(who)
        if lose(losses, who) is Deferred:
            spent.add(who)
    assert len(spent) <= 15


@pytest.mark.parametrize("share", [10, 4])
def test_who_is_refused_each_time_spends_attempts_though_many_are(share: int) -> None:
    losses, spent = Losses(), set()
    for number in range(2000):
        if number % share:
            losses.taken(f"good {number}")
        elif lose(losses, f"bad {number // share % 20}") is Deferred:
            spent.add(number // share % 20)
    assert spent == set(range(20))


def test_outages_that_come_and_go_are_everyones() -> None:
    losses = Losses()
    for _ in range(8):  # unlucky each time
        down = [lose(losses, f"unlucky {number}") for number in range(10)]
        assert Deferred not in down
        assert down[:4] in ([NotYet] * 4, [DependencyDown] * 4)
        assert down[4:] == [DependencyDown] * 6
        for number in range(10):
            losses.taken(f"lucky {number}")
