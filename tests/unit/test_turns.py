"""How often a recipient domain may get a mail."""

import pytest

from consumers.mail.turns import Domain, Turns
from consumers.outcome import NotYet


def test_those_that_rest_come_back_one_after_another() -> None:
    domain = Domain(2.0, 0.0)
    rests = [domain.rest_s(0.0, 0.5) for _ in range(5)]
    assert rests == [0.0, 0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("looks_every_s", [0.01, 0.3, 1.0])
def test_the_rate_is_kept_however_seldom_those_that_rest_are_looked_at(looks_every_s: float) -> None:
    domain, due_s, sent_at_s, now_s = Domain(5.0, 0.0), [0.0] * 300, [], 0.0
    while due_s and now_s < 100:
        for at_s in [at_s for at_s in due_s if at_s <= now_s]:
            due_s.remove(at_s)
            if rest_s := domain.rest_s(now_s, 0.5):
                due_s.append(now_s + rest_s)
            else:
                sent_at_s.append(now_s)
        now_s += looks_every_s
    assert len(sent_at_s) == 300
    assert 58 <= sent_at_s[-1] <= 66
    assert max(sum(1 for at_s in sent_at_s if begin <= at_s < begin + 1) for begin in range(60)) <= 2 * 5 + 1


def test_nobody_rests_for_hours_as_another_process_may_have_turns() -> None:
    domain = Domain(1 / 60, 0.0)
    rests = [domain.rest_s(0.0, 0.0) for _ in range(50)]
    assert max(rests) == 600
    assert set(rests[-10:]) == {300.0}


def test_a_domain_without_a_rate_never_waits_and_another_ones_rate_is_not_its_own() -> None:
    turns = Turns({"slow.example": 0.001})
    turns.take("slow.example")
    with pytest.raises(NotYet) as rests:
        turns.take("slow.example")
    assert 300 <= (rests.value.retry_after_s or 0) <= 600
    for _ in range(100):
        turns.take("example.org")
        turns.take("mail.slow.example")
