"""Questions that wait for one connection."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from consumers.together import Together
from deploy.local.net import until


class Oracle:
    """Doubles numbers, knows nothing of negative ones, and answers when it may."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.open = threading.Event()
        self.failure: Exception | None = None

    def __call__(self, questions: Sequence[int]) -> dict[int, int]:
        self.asked.append(sorted(questions))
        assert self.open.wait(10)
        if self.failure:
            raise self.failure
        return {question: 2 * question for question in questions if question >= 0}


def test_those_that_wait_together_are_asked_together_and_each_gets_its_answer() -> None:
    oracle = Oracle()
    together = Together(oracle, -1)
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(together, 0)
        until(lambda: oracle.asked, 10, "the first to ask")
        others = [threads.submit(together, number) for number in (1, 2, 2, -3, 4)]
        until(lambda: len(together._waiting) == 5, 10, "the others to wait")
        oracle.open.set()
        assert [first.result(10), *(other.result(10) for other in others)] == [0, 2, 4, 4, -1, 8]
    assert oracle.asked == [[0], [-3, 1, 2, 2, 4]]


def test_a_failure_is_everyones_who_waited_for_it_and_nobody_elses() -> None:
    oracle = Oracle()
    oracle.failure = ValueError("gone")
    together = Together(oracle, -1)
    with ThreadPoolExecutor(2) as threads:
        asked = threads.submit(together, 1)
        until(lambda: oracle.asked, 10, "the first to ask")
        oracle.open.set()
        assert asked.exception(10) is oracle.failure
        oracle.failure = None
        assert together(1) == 2
        assert together(-1) == -1


def test_many_threads_get_their_own_answers() -> None:
    oracle = Oracle()
    oracle.open.set()
    together = Together(oracle, -1)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(together, range(2000))) == [2 * number for number in range(2000)]
    assert sum(map(len, oracle.asked)) == 2000
