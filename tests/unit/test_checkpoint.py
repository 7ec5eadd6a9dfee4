"""What may be confirmed: checked against a model of psycopg2 and the server, over any order of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cdc.checkpoint import Checkpoint
from cdc.runtime.errors import PositionMismatch


class Stream(RuleBasedStateMachine):
    """A walsender that sends transactions in commit order, keepalives at any moment, and psycopg2's own confirming.

    Transactions interleave: the rows of one that commits later may begin below the end of one before. The model knows
    which ends are in Kafka; nothing that is read and not in Kafka may ever be confirmed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.checkpoint = Checkpoint()
        self.flushed_lsn = 0  # what psycopg2 tells the server
        self.given_lsn = 0  # what send_feedback was given
        self.last_data_start = 0
        self.sent_lsn = 0  # the walsender's own position: the end of the last whole transaction
        self.rows_left = 0
        self.next_row = 0
        self.end_lsn = 0
        self.in_kafka = 0
        self.completed: list[int] = []

    def drain(self) -> None:
        if self.checkpoint.must_drain:
            self.commit()
            self.confirm()

    def receive(self, data_start: int) -> None:
        self.drain()
        self.last_data_start = data_start
        self.checkpoint.read(data_start)

    @rule(started_before=st.integers(0, 40), rows=st.integers(0, 5), length=st.integers(1, 20))
    def begin(self, started_before: int, rows: int, length: int) -> None:
        if self.rows_left or self.end_lsn > self.sent_lsn:
            return
        self.end_lsn = self.sent_lsn + 10 + length
        self.next_row = max(1, self.sent_lsn - started_before)
        self.rows_left = rows
        self.receive(self.next_row)

    @rule()
    def row(self) -> None:
        if self.rows_left:
            self.rows_left -= 1
            self.next_row = min(self.next_row + 3, self.end_lsn - 1)
            self.receive(self.next_row)

    @rule()
    def end(self) -> None:
        if not self.rows_left and self.end_lsn > self.sent_lsn:
            self.receive(self.end_lsn)
            self.sent_lsn = self.end_lsn
            self.checkpoint.complete(self.end_lsn)
            self.completed.append(self.end_lsn)

    @rule()
    def commit(self) -> None:
        self.in_kafka = self.completed[-1] if self.completed else 0
        self.checkpoint.acknowledge()

    @rule()
    def confirm(self) -> None:
        lsn = self.checkpoint.safe_lsn()
        self.checkpoint.confirm(lsn)
        self.given_lsn = max(self.given_lsn, lsn)
        self.flushed_lsn = max(self.flushed_lsn, lsn)

    @rule()
    def keepalive(self) -> None:
        """Reach psycopg2 inside a read: the guard was asked before it, then it confirms by its own rule."""
        self.drain()
        if self.given_lsn >= self.last_data_start:
            self.flushed_lsn = max(self.flushed_lsn, self.sent_lsn)

    @invariant()
    def nothing_is_confirmed_that_is_not_in_kafka(self) -> None:
        lost = [end for end in self.completed if self.in_kafka < end <= self.flushed_lsn]
        assert lost == []


TestStream = Stream.TestCase


def test_a_step_back_of_the_slot_is_refused() -> None:
    checkpoint = Checkpoint()
    checkpoint.complete(20)
    with pytest.raises(PositionMismatch):
        checkpoint.complete(10)


def test_what_kafka_has_not_acknowledged_is_never_confirmed() -> None:
    checkpoint = Checkpoint()
    checkpoint.read(20)
    checkpoint.complete(20)
    assert checkpoint.safe_lsn() == 0
    with pytest.raises(PositionMismatch):
        checkpoint.confirm(20)


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_late_row_of_a_long_transaction_makes_the_reader_commit_first(gap: int, back: int) -> None:
    checkpoint = Checkpoint()
    checkpoint.read(1000)
    checkpoint.complete(1000)
    checkpoint.acknowledge()
    checkpoint.confirm(checkpoint.safe_lsn())
    checkpoint.read(1000 + gap)
    checkpoint.complete(1000 + gap)
    checkpoint.read(1000 - back)
    assert checkpoint.must_drain
    checkpoint.acknowledge()
    assert not checkpoint.must_drain
