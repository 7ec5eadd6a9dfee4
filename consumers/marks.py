"""The one writer of transitions in a process: what several workers have to say goes into one transaction.

Group commit: while one transaction is on its way to the disk, the next marks gather. One connection serves any number
of workers, and reconnecting is written once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

from cdc.runtime.errors import ConnectionLost
from cdc.runtime.lifecycle import Stop
from consumers.delivery import Delivery, Mark
from consumers.ledger import Ledger
from consumers.outcome import LeaseLost, Outcome
from consumers.patience import Patience

#: How many marks make a transaction at most: an ingest that wants the same queues waits no longer than these take.
_MOST = 100

_Asked = tuple[Mark, Future[bool]]


class Marks:
    """Writes marks through a ledger of its own. `run` is its thread's; the others are for any thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._ended = Stop()
        self._over = threading.Event()
        self._patience = Patience(self._ended, "the ledger, to record outcomes")

    def sending(self, delivery: Delivery) -> None:
        """Record that the final dot is about to leave. Raises LeaseLost: it must not.

        Returns after the commit. A crash after it, whether the dot left or not, ends in `unknown`.
        """
        if not self._ask(Mark(delivery, None, self._ledger.worker)):
            raise LeaseLost("the lease was taken over or has under 5 s left: nothing was sent")

    def finish(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Record what became of a delivery; false: it was no longer ours, and someone else decides.

        Returns after the commit. A crash before it: the lease runs out in `sending` (unknown) or `claimed` (again).
        """
        return self._ask(Mark(delivery, outcome, self._ledger.worker))

    def run(self) -> None:
        """Write until `end`. A ledger that is away is waited for: an outcome is worth more than a quick end."""
        try:
            while (batch := self._gather()) is not None:
                self._write(batch)
        finally:
            self._over.set()
            self._ledger.close()

    def _write(self, batch: Sequence[_Asked]) -> None:
        kept = self._patience.insist(partial(self._ledger.mark, [mark for mark, _ in batch]))
        for mark, answer in batch:
            answer.set_result(mark.delivery.id in kept)

    def end(self) -> None:
        """Ask `run` to return after what was asked before. With the ledger away it returns at once."""
        self._ended.request()
        self._asked.put(None)

    def _ask(self, mark: Mark) -> bool:
        answer: Future[bool] = Future()
        self._asked.put((mark, answer))
        while not self._over.is_set():
            # Not forever: the writer may have ended, and nobody answers what was asked after it.
            with suppress(FutureTimeout):
                return answer.result(timeout=1.0)
        if answer.done():
            return answer.result()
        raise ConnectionLost("the writer of outcomes has ended: the end of the lease settles this delivery")

    def _gather(self) -> list[_Asked] | None:
        """Wait for a mark and take all that have gathered; None: the end."""
        first = self._asked.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < _MOST and not self._asked.empty():
            another = self._asked.get()
            if another is None:
                self._asked.put(None)
                break
            batch.append(another)
        return batch
