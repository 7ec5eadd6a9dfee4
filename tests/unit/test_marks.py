"""The writer of outcomes, with a ledger that does what a test tells it."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from cdc.contract.envelope import Envelope, Source
from cdc.runtime.errors import ConnectionLost, FatalError, ServiceError
from consumers.delivery import Delivery, Mark
from consumers.ledger import Ledger
from consumers.marks import Marks
from consumers.outcome import LeaseLost, Sent

NOW = datetime(2026, 11, 23, tzinfo=UTC)


class FakeLedger:
    worker = "me"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.not_ours: set[int] = set()
        self.failures: list[Exception] = []
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()

    def mark(self, marks: Sequence[Mark]) -> set[int]:
        return self._write([mark.delivery.id for mark in marks])

    def marked(self, _: Sequence[Mark]) -> set[int]:
        return set()

    def sending(self, ids: Sequence[int]) -> set[int]:
        return self._write(list(ids))

    def _write(self, ids: list[int]) -> set[int]:
        self.asked.set()
        self.open.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append(ids)
        return set(ids) - self.not_ours

    def close(self) -> None:
        """Nothing is open."""


def delivery(number: int) -> Delivery:
    envelope = Envelope("c", Source("app", 0, "public", "users"))
    return Delivery(number, "mail", "e", "welcome", "welcome", "mail:welcome", "k", 1, 0, NOW, NOW, envelope)


def run(marks: Marks) -> None:
    with suppress(ServiceError):
        marks.run()


def finish(marks: Marks, number: int) -> Future[bool | None]:
    """Have it recorded that a delivery was sent; give what will be told."""
    told: Future[bool | None] = Future()
    marks.finish(Mark(delivery(number), Sent({}), "me"), told.set_result)
    return told


@contextmanager
def writing(ledger: FakeLedger, permitting: FakeLedger | None = None) -> Iterator[tuple[Marks, threading.Thread]]:
    ledgers = iter([ledger, permitting or FakeLedger()])
    marks = Marks(lambda: cast(Ledger, cast(Any, next(ledgers))))
    writer = threading.Thread(target=lambda: run(marks))
    writer.start()
    try:
        yield marks, writer
    finally:
        ledger.open.set()
        marks.end()
        writer.join(10)
        assert not writer.is_alive()


def test_what_gathers_during_a_transaction_is_the_next_one() -> None:
    ledger = FakeLedger()
    ledger.open.clear()
    with writing(ledger) as (marks, _):
        first = finish(marks, 0)
        assert ledger.asked.wait(10)
        others = [finish(marks, number) for number in range(1, 5)]
        assert not first.done()  # nothing is told before it is written
        ledger.open.set()
        assert all(told.result(10) for told in [first, *others])
    assert ledger.batches == [[0], [1, 2, 3, 4]]


def test_a_permission_waits_for_no_outcome() -> None:
    ledger, permitting = FakeLedger(), FakeLedger()
    ledger.open.clear()
    with writing(ledger, permitting) as (marks, _):
        finish(marks, 0)
        assert ledger.asked.wait(10)
        marks.sending(delivery(1))
    assert permitting.batches == [[1]]


def test_without_the_lease_nothing_may_be_sent() -> None:
    ledger, permitting = FakeLedger(), FakeLedger()
    ledger.not_ours = permitting.not_ours = {1}
    with writing(ledger, permitting) as (marks, _):
        marks.sending(delivery(0))
        with pytest.raises(LeaseLost):
            marks.sending(delivery(1))
        assert finish(marks, 1).result(10) is False


def test_a_permission_waits_for_a_ledger_that_is_away_until_the_end() -> None:
    permitting = FakeLedger()
    permitting.failures = [ConnectionLost("gone"), ConnectionLost("gone")]
    with writing(FakeLedger(), permitting) as (marks, _), ThreadPoolExecutor(1) as pool:
        marks.sending(delivery(0))
        permitting.failures = [ConnectionLost("gone")] * 1000
        permission = pool.submit(marks.sending, delivery(1))
        marks.end()
        assert isinstance(permission.exception(10), ConnectionLost)
    assert permitting.batches == [[0]]


def test_a_ledger_that_is_away_is_waited_for() -> None:
    ledger = FakeLedger()
    ledger.failures = [ConnectionLost("gone"), ConnectionLost("gone")]
    with writing(ledger) as (marks, _):
        assert finish(marks, 0).result(10)
    assert ledger.batches == [[0]]


def test_at_the_end_what_was_asked_before_is_written() -> None:
    ledger = FakeLedger()
    ledger.open.clear()
    with writing(ledger) as (marks, _):
        told = [finish(marks, number) for number in range(3)]
        marks.end()
        ledger.open.set()
        assert [one.result(10) for one in told] == [True, True, True]
        assert finish(marks, 3).result(10) is None  # and nobody is left waiting for what was asked after it


def test_at_the_end_nobody_waits_for_a_ledger_that_is_away() -> None:
    ledger = FakeLedger()
    ledger.failures = [ConnectionLost("gone")] * 1000
    with writing(ledger) as (marks, _):
        told = finish(marks, 0)
        assert ledger.asked.wait(10)
        marks.end()
        assert told.result(10) is None


def test_a_writer_that_fails_leaves_nobody_waiting() -> None:
    ledger = FakeLedger()
    ledger.open.clear()
    ledger.failures = [FatalError("no right")]
    with writing(ledger) as (marks, writer):
        told = finish(marks, 0)
        assert ledger.asked.wait(10)
        also = finish(marks, 1)
        ledger.open.set()
        assert (told.result(10), also.result(10)) == (None, None)
        writer.join(10)
        with pytest.raises(ConnectionLost):
            marks.sending(delivery(3))
        assert finish(marks, 4).result(10) is None
