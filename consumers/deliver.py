"""Loop 2: claim due deliveries from the ledger, perform their effects, record what became of them.

    until stop: renew our leases; take back expired ones; claim; hand to the workers
    worker:     effect -> outcome -> mark, which promotes the next of the queue

Order of the end: no more claims; what no worker began goes back; what is running ends, while its leases are renewed;
then the marks' writer ends, which all of these need.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from queue import Empty, SimpleQueue

from cdc.runtime.errors import FatalError, RetryableError, ServiceError
from cdc.runtime.lifecycle import Stop
from cdc.runtime.log import get_logger
from consumers import journal, outcome
from consumers.delivery import Delivery, Leased, Mark
from consumers.lanes import Lanes
from consumers.ledger import DOT_S, Ledger
from consumers.marks import Marks
from consumers.outcome import Busy, GivenBack, LeaseLost, Outcome, Pause, Retry
from consumers.patience import Patience
from consumers.planning import REREADING, UNDECODABLE
from consumers.rules import Rules

#: Performs one delivery; calls its second argument right before the point of no return, more than once where something
#: takes time in between; returns the ledger's result.
Effect = Callable[[Delivery, Callable[[], None]], dict[str, object]]

#: How long what is running may take to end after a stop request.
GRACE_S = 20.0
#: How long a process whose connections all hang leaves the rest of a lane's deliveries to others.
_ASIDE_S = 5.0
_log = get_logger("deliver")


class _Permission:
    """To pass the point of no return: recorded at the first call, and at any call no older than it is good for.

    So a process that was paused after the ledger's answer does not act when it wakes: others may have its lease.
    """

    def __init__(self, marks: Marks, delivery: Delivery) -> None:
        self.given = False
        self._marks, self._delivery = marks, delivery
        self._asked_at = 0.0

    def __call__(self) -> None:
        if not self.given:
            self._asked_at = time.monotonic()
            self._marks.sending(self._delivery)
            self.given = True
        if time.monotonic() - self._asked_at > DOT_S:
            raise LeaseLost("the process was held up after it was allowed to send: nothing was sent")


class Deliver:
    """The deliveries of one process. `run` is for one thread, `work` for as many as `workers` says."""

    def __init__(
        self, *, ledger: Ledger, marks: Marks, effect: Effect, rules: Rules, lanes: Lanes, lease_s: float, stop: Stop
    ) -> None:
        self.wake = threading.Event()  #: set it when there may be something to claim
        self.turned_at = 0.0  #: when the loop last got through; for readiness
        self._ledger, self._marks, self._effect = ledger, marks, effect
        self._rules = {**rules.by_name, UNDECODABLE: REREADING}
        self._lanes, self._lease_s, self._stop = lanes, lease_s, stop
        self._begun: SimpleQueue[Delivery | None] = SimpleQueue()
        self._held: dict[int, Delivery] = {}  # claimed and not yet marked; a dict's single operations are atomic
        self._tend_at = 0.0
        self._aside_until = dict[str, float]()  # by lane
        self._due_at = math.inf  # when a delivery that we put off is due; what others put off is found within a second
        self._steady = False
        self._heard = True

    def run(self) -> None:
        """Claim until a stop is requested, then end in order."""
        patience = Patience(self._stop, "the ledger, to claim")
        while not self._stop.requested:
            self.wake.clear()
            try:
                self._tend()
                claimed = self._claim()
            except RetryableError as exc:
                self._steady = self._heard = False
                patience.wait(exc)
                continue
            patience.over()
            self.turned_at = time.monotonic()
            if not claimed:
                self.wake.wait(self._rest_s())
        self._end()

    def work(self) -> None:
        """Perform deliveries until the end. Raises FatalError: the process can't go on."""
        while (delivery := self._begun.get()) is not None:
            try:
                self._deliver(delivery)
            except BaseException:
                self._held.pop(delivery.id, None)
                raise

    def _claim(self) -> bool:
        if not self._heard:
            self._give_back_unheard()
        in_work = [delivery.lane for delivery in list(self._held.values())]
        most, room = self._lanes.most(len(in_work)), self._lanes.room(in_work, time.monotonic())
        room = {lane: free for lane, free in room.items() if not self._stands_aside(lane)}
        if not most or not room:
            return False
        claimed = self._ledger.claim(room, list(self._rules), most, self._lease_s)
        self._lanes.took(delivery.lane for delivery in claimed)
        for delivery in claimed:
            self._held[delivery.id] = delivery
            self._begun.put(delivery)
        return bool(claimed)

    def _give_back_unheard(self) -> None:
        """Let go of what was claimed when the ledger's answer was lost: nobody works at it, and a lease is long."""
        if unheard := self._ledger.unheard(list(self._held)):
            self._ledger.mark([Mark(leased, GivenBack(), leased.leased_by) for leased in unheard])
        self._heard = True

    def _rest_s(self) -> float:
        """Tell how long there is nothing to do, unless someone wakes us."""
        now_s, due_at = time.monotonic(), self._due_at
        if due_at <= now_s:
            self._due_at = math.inf
        return max(0.0, min(self._lanes.next_s(), self._tend_at - now_s, due_at - now_s))

    def _tend(self) -> None:
        """Renew our leases well before they end, and take back those of workers that went away.

        Not at once after the ledger was away: others were cut off too, and may be about to record what they did.
        """
        if time.monotonic() < self._tend_at:
            return
        if self._held:
            self._ledger.renew(list(self._held), self._lease_s)
        if self._steady:
            self._take_back()
        self._steady = True
        self._tend_at = time.monotonic() + self._lease_s / 4

    def _take_back(self) -> None:
        marks = [
            Mark(leased, self._expired(leased), leased.leased_by, True)
            for leased in self._ledger.expired(list(self._rules))
        ]
        kept = self._ledger.mark(marks) if marks else set()
        for mark in marks:
            if mark.delivery.id in kept:
                journal.write(mark)

    def _expired(self, leased: Leased) -> Outcome:
        return outcome.expired(leased.state, leased.attempt, self._rules[leased.rule], in_doubt=leased.in_doubt)

    def _deliver(self, delivery: Delivery) -> None:
        permission = _Permission(self._marks, delivery)
        became: Outcome
        fatal: FatalError | None = None
        try:
            became = outcome.sent(self._perform(delivery, permission), delivery)
            self._aside_until.clear()
        except Exception as exc:
            if isinstance(exc, Busy):
                self._aside_until[delivery.lane] = time.monotonic() + _ASIDE_S
            fatal = exc if isinstance(exc, FatalError) else None
            became = self._decide(exc, delivery, permission.given)
        self._finish(delivery, became)
        if fatal:
            raise fatal

    def _perform(self, delivery: Delivery, permission: _Permission) -> dict[str, object]:
        """Carry it out; what no code could read, a replay reads again, and all else needs an envelope."""
        if self._stands_aside(delivery.lane):
            raise Busy("it would wait as others of its lane did in vain", retry_after_s=1.0)
        if delivery.unreadable and delivery.rule != UNDECODABLE:
            raise delivery.unreadable
        return self._effect(delivery, permission)

    def _stands_aside(self, lane: str) -> bool:
        return self._aside_until.get(lane, 0.0) > time.monotonic()

    def _decide(self, error: Exception, delivery: Delivery, sending: bool) -> Outcome:
        if not isinstance(error, ServiceError):
            # Never its text: it may hold a row's value.
            _log.error("effect_failed", delivery=delivery.id, error=type(error).__name__, where=journal.where(error))
        now, jitter = datetime.now(UTC), random.random()  # noqa: S311  spreads retries
        rule = self._rules[delivery.rule]
        if self._stop.requested and not outcome.is_final(error, rule, sending=sending):
            return GivenBack()  # the process ends, and may have cut it off itself: neither error nor attempt
        return outcome.decide(error, delivery, rule, sending=sending, now=now, jitter=jitter)

    def _finish(self, delivery: Delivery, became: Outcome) -> None:
        """Have it recorded, and do not wait: until it is, the delivery is held and its lease renewed."""
        mark = Mark(delivery, became, self._ledger.worker)
        self._marks.finish(mark, partial(self._finished, mark))

    def _finished(self, mark: Mark, kept: bool | None) -> None:
        if kept is None:
            _log.error("outcome_not_recorded", delivery=mark.delivery.id, state=mark.state)
        elif kept:
            journal.write(mark)
            self._put_off(mark.outcome)
        else:
            journal.write_not_ours(mark)
        self._held.pop(mark.delivery.id, None)
        if self._stop.requested or self._lanes.most(len(self._held)):
            self.wake.set()

    def _put_off(self, became: Outcome) -> None:
        """Take note of when it is due, if it is to come again."""
        if isinstance(became, Retry | Pause | GivenBack):
            later_s = became.pause_s if isinstance(became, Pause) else became.after_s
            # A little later than the database will say: looking too early is looking twice.
            self._due_at = min(self._due_at, time.monotonic() + later_s + 0.01)
            self.wake.set()

    def _end(self) -> None:
        not_begun = self._not_begun()
        for _ in range(self._lanes.workers):
            self._begun.put(None)
        deadline = time.monotonic() + GRACE_S
        try:
            self._give_back(not_begun)
            while self._held and time.monotonic() < deadline:
                self.wake.clear()
                self._tend()
                self.wake.wait(0.2)
        except RetryableError as exc:
            _log.warning("leases_left_to_run_out", deliveries=len(self._held), why=str(exc))

    def _not_begun(self) -> list[Delivery]:
        found = []
        try:
            while delivery := self._begun.get_nowait():
                found.append(delivery)
        except Empty:
            pass
        return found

    def _give_back(self, deliveries: list[Delivery]) -> None:
        """Let others take what no worker began. A crash just before: its leases run out, with an attempt spent."""
        if deliveries:
            self._ledger.mark([Mark(delivery, GivenBack(), self._ledger.worker) for delivery in deliveries])
        for delivery in deliveries:
            del self._held[delivery.id]
