"""How a process writes its transitions: what several workers have to say goes into one transaction.

Group commit: while one transaction is on its way to the disk, the next ones gather. Two connections serve any number of
workers. A worker waits for the permission to send, which one of those that wait asks for all; nobody waits for an
outcome to be recorded but its queue, and a thread of its own does that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

from cdc.runtime.errors import ConnectionLost
from cdc.runtime.lifecycle import Stop
from consumers.delivery import Delivery, Mark
from consumers.ledger import Ledger
from consumers.outcome import LeaseLost
from consumers.patience import Patience
from consumers.together import Together

#: How many marks make a transaction at most: an ingest that wants the same queues waits no longer than these take.
_MOST = 100

#: Takes whether the delivery was still ours; None: the writer has ended, and the end of the lease settles it.
Answer = Callable[[bool | None], None]


class _Asked(NamedTuple):
    """A mark, and whom to tell."""

    mark: Mark
    answer: Answer


class Marks:
    """Writes marks through ledgers of its own. `run` is its thread's; the others are for any thread."""

    def __init__(self, open_ledger: Callable[[], Ledger]) -> None:
        self._ledger, self._permitting = open_ledger(), open_ledger()
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._ended = Stop()
        self._over = threading.Event()
        self._patience = Patience(self._ended, "the ledger, to record outcomes")
        self._to_permit = Patience(self._ended, "the ledger, to permit sending")
        self._permitted = Together(self._permit, False)

    def sending(self, delivery: Delivery) -> None:
        """Record that the final dot is about to leave. Raises LeaseLost, ConnectionLost: it must not.

        Returns after the commit. A crash after it, whether the dot left or not, ends in `unknown`.
        """
        if not self._permitted(delivery.id):
            raise LeaseLost("the lease was taken over or has under 5 s left: nothing was sent")

    def finish(self, mark: Mark, then: Answer) -> None:
        """Have an outcome recorded; `then` is called after the commit, by the writer's thread.

        A crash before the commit: the lease runs out in `sending` (unknown) or `claimed` (again).
        """
        self._asked.put(_Asked(mark, then))
        if self._over.is_set():
            self._refuse_rest()

    def run(self) -> None:
        """Write until `end`. A ledger that is away is waited for: an outcome is worth more than a quick end."""
        batch: Sequence[_Asked] = ()
        try:
            while batch := self._gather():
                self._write(batch)
                batch = ()
        finally:
            self._ended.request()
            self._over.set()
            for asked in batch:
                asked.answer(None)
            self._refuse_rest()
            self._ledger.close()
            self._permitting.close()

    def end(self) -> None:
        """Ask `run` to return after what was asked before. With the ledger away it returns at once."""
        self._ended.request()
        self._asked.put(None)

    def _permit(self, deliveries: Sequence[int]) -> dict[int, bool]:
        """Ask the ledger; one that is away is waited for. Nothing is sent that no writer would record."""
        if self._ended.requested:
            raise ConnectionLost("the writer of outcomes has ended: nothing was sent")
        return dict.fromkeys(self._to_permit.insist(partial(self._permitting.sending, deliveries)), True)

    def _write(self, batch: Sequence[_Asked]) -> None:
        kept = self._patience.insist(partial(self._record, [asked.mark for asked in batch]))
        for asked in batch:
            asked.answer(asked.mark.delivery.id in kept)

    def _record(self, marks: Sequence[Mark]) -> set[int]:
        kept = self._ledger.mark(marks)
        rest = [mark for mark in marks if mark.delivery.id not in kept]
        # Taken over, or this is asked again, as the answer was lost.
        return kept | self._ledger.marked(rest) if rest else kept

    def _refuse_rest(self) -> None:
        """Answer what nobody will write any more. Whoever takes it from the queue does: each is answered once."""
        with suppress(Empty):
            while True:
                if asked := self._asked.get_nowait():
                    asked.answer(None)

    def _gather(self) -> list[_Asked]:
        """Wait for something and take all that has gathered; nothing at the end."""
        batch: list[_Asked] = []
        while not batch or (len(batch) < _MOST and not self._asked.empty()):
            asked = self._asked.get()
            if asked is None:
                self._asked.put(None)
                break
            batch.append(asked)
        return batch
