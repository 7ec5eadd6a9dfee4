"""The one writer of transitions in a process: what several workers have to say goes into one transaction.

Group commit: while one transaction is on its way to the disk, the next marks gather. One connection serves any number
of workers, and reconnecting is written once. A worker waits for the permission to send; nobody waits for an outcome to
be recorded but its queue.
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

#: How many marks make a transaction at most: an ingest that wants the same queues waits no longer than these take.
_MOST = 100

#: Takes whether the delivery was still ours; None: the writer has ended, and the end of the lease settles it.
Answer = Callable[[bool | None], None]


class _Asked(NamedTuple):
    """A mark, or without one the permission to send, and whom to tell."""

    delivery: int
    mark: Mark | None
    answer: Answer


class Marks:
    """Writes marks through a ledger of its own. `run` is its thread's; the others are for any thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._ended = Stop()
        self._over = threading.Event()
        self._patience = Patience(self._ended, "the ledger, to record outcomes")

    def sending(self, delivery: Delivery) -> None:
        """Record that the final dot is about to leave. Raises LeaseLost, ConnectionLost: it must not.

        Returns after the commit. A crash after it, whether the dot left or not, ends in `unknown`.
        """
        answer: SimpleQueue[bool | None] = SimpleQueue()
        self._ask(_Asked(delivery.id, None, answer.put))
        may = answer.get()
        if may is None:
            raise ConnectionLost("the writer of outcomes has ended: nothing was sent")
        if not may:
            raise LeaseLost("the lease was taken over or has under 5 s left: nothing was sent")

    def finish(self, mark: Mark, then: Answer) -> None:
        """Have an outcome recorded; `then` is called after the commit, by the writer's thread.

        A crash before the commit: the lease runs out in `sending` (unknown) or `claimed` (again).
        """
        self._ask(_Asked(mark.delivery.id, mark, then))

    def run(self) -> None:
        """Write until `end`. A ledger that is away is waited for: an outcome is worth more than a quick end."""
        batch: Sequence[_Asked] = ()
        try:
            while batch := batch or self._gather():
                batch = self._write(batch)
        finally:
            self._over.set()
            for asked in batch:
                asked.answer(None)
            self._refuse_rest()
            self._ledger.close()

    def end(self) -> None:
        """Ask `run` to return after what was asked before. With the ledger away it returns at once."""
        self._ended.request()
        self._asked.put(None)

    def _write(self, batch: Sequence[_Asked]) -> Sequence[_Asked]:
        """Write what one statement can, tell who asked, and give the rest."""
        # Permissions first: a connection to the relay waits for each.
        part = [asked for asked in batch if asked.mark is None] or batch
        kept = self._patience.insist(partial(self._tell_ledger, part))
        for asked in part:
            asked.answer(asked.delivery in kept)
        return batch[len(part) :]

    def _tell_ledger(self, part: Sequence[_Asked]) -> set[int]:
        marks = [asked.mark for asked in part if asked.mark]
        return self._ledger.mark(marks) if marks else self._ledger.sending([asked.delivery for asked in part])

    def _ask(self, asked: _Asked) -> None:
        self._asked.put(asked)
        if self._over.is_set():
            self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Answer what nobody will write any more. Whoever takes it from the queue does: each is answered once."""
        with suppress(Empty):
            while True:
                if asked := self._asked.get_nowait():
                    asked.answer(None)

    def _gather(self) -> list[_Asked]:
        """Wait for something and take all that has gathered, permissions first; nothing at the end."""
        batch: list[_Asked] = []
        while not batch or (len(batch) < _MOST and not self._asked.empty()):
            asked = self._asked.get()
            if asked is None:
                self._asked.put(None)
                break
            batch.append(asked)
        return sorted(batch, key=lambda asked: asked.mark is not None)
