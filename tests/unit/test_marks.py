"""The writer of outcomes, with a ledger that does what a test tells it."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from deploy.local.net import until

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
        self.asked.set()
        self.open.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append([mark.delivery.id for mark in marks])
        return {mark.delivery.id for mark in marks} - self.not_ours

    def close(self) -> None:
        """Nothing is open."""


def delivery(number: int) -> Delivery:
    envelope = Envelope("c", Source("app", 0, "public", "users"))
    return Delivery(number, "mail", "e", "welcome", "welcome", "mail:welcome", "k", 1, 0, NOW, NOW, envelope)


def run(marks: Marks) -> None:
    with suppress(ServiceError):
        marks.run()


@contextmanager
def writing(ledger: FakeLedger) -> Iterator[tuple[Marks, threading.Thread]]:
    marks = Marks(cast(Ledger, cast(Any, ledger)))
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
    with writing(ledger) as (marks, _), ThreadPoolExecutor(5) as pool:
        first = pool.submit(marks.finish, delivery(0), Sent({}))
        assert ledger.asked.wait(10)
        others = [pool.submit(marks.finish, delivery(number), Sent({})) for number in range(1, 5)]
        until(lambda: marks._asked.qsize() == 4, 10, "the others to wait")
        ledger.open.set()
        assert all(asked.result(10) for asked in [first, *others])
    assert [sorted(batch) for batch in ledger.batches] == [[0], [1, 2, 3, 4]]


def test_without_the_lease_nothing_may_be_sent() -> None:
    ledger = FakeLedger()
    ledger.not_ours = {1}
    with writing(ledger) as (marks, _):
        marks.sending(delivery(0))
        with pytest.raises(LeaseLost):
            marks.sending(delivery(1))
        assert not marks.finish(delivery(1), Sent({}))


def test_a_ledger_that_is_away_is_waited_for() -> None:
    ledger = FakeLedger()
    ledger.failures = [ConnectionLost("gone"), ConnectionLost("gone")]
    with writing(ledger) as (marks, _):
        assert marks.finish(delivery(0), Sent({}))
    assert ledger.batches == [[0]]


def test_at_the_end_nobody_waits_for_a_ledger_that_is_away() -> None:
    ledger = FakeLedger()
    ledger.failures = [ConnectionLost("gone")] * 1000
    with writing(ledger) as (marks, _), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(marks.finish, delivery(0), Sent({}))
        assert ledger.asked.wait(10)
        marks.end()
        with pytest.raises(ConnectionLost):
            asked.result(10)


def test_a_writer_that_fails_leaves_nobody_waiting() -> None:
    ledger = FakeLedger()
    ledger.failures = [FatalError("no right")]
    with writing(ledger) as (marks, writer):
        with pytest.raises(ConnectionLost):
            marks.finish(delivery(0), Sent({}))
        writer.join(10)
        with pytest.raises(ConnectionLost):
            marks.sending(delivery(1))
