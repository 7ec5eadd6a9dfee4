"""Waits grow, are capped, and are jittered."""

from hypothesis import given
from hypothesis import strategies as st

from cdc.runtime.backoff import delay_s


@given(st.integers(1, 1000), st.floats(0, 0.999))
def test_a_wait_is_never_nothing_and_never_more_than_its_cap(attempt: int, jitter: float) -> None:
    assert 0.05 <= delay_s(attempt, 1.0, 60.0, jitter) <= 60.0


def test_without_jitter_the_wait_doubles_to_the_cap() -> None:
    assert [round(delay_s(attempt, 1.0, 10.0, 1.0), 3) for attempt in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 10]
