"""One consumer process: threads that ingest, claim, work and record outcomes, while the main one waits for the end.

A thread that fails ends the process: half a consumer looks alive and is not.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

from cdc.runtime import health
from cdc.runtime.errors import ConfigInvalid, FatalError, RetryableError, ServiceError
from cdc.runtime.lifecycle import Stop
from cdc.runtime.log import get_logger
from cdc.runtime.settings import Settings
from consumers import journal, lanes, old_rows, one_cpu, orphans, retention
from consumers.deliver import GRACE_S, Deliver
from consumers.effects import ClosableEffect, Effects
from consumers.ingest import Ingest
from consumers.last_look import LastLook
from consumers.ledger import Ledger
from consumers.marks import Marks
from consumers.migrations import migrate
from consumers.patience import Patience
from consumers.reread import Reread
from consumers.rules import Rules

_MEASURE_S = 15.0
#: A loop that has not come round for so long is stuck.
_STUCK_S = 60.0
_log = get_logger("consumers")


class Crew:
    """The threads of a process. The first failure is kept and requests the stop of all."""

    def __init__(self, stop: Stop) -> None:
        self.failure: BaseException | None = None
        self._stop = stop
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run work in a thread of its own."""
        # Daemons: a relay that does not answer for minutes must not keep a stopped process alive.
        thread = threading.Thread(target=self._watch, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for all threads, no longer than the timeout in all."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _watch(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:
            if isinstance(exc, RetryableError) and self._stop.requested:
                return  # it was waiting for a server when the stop came
            self.failure = self.failure or exc
            self._stop.request()


def consume(settings: Settings, name: str, stop: Stop) -> None:
    """Run one consumer until a stop is requested. Raises ConfigInvalid, FatalError."""
    rules = Rules(settings, name)
    if not rules.by_name:
        hint = "Rules with `mail =` belong to mail, rules with `services =` to services, any to the one in `consumer =`"
        raise ConfigInvalid(f"no rule belongs to the consumer {name}", hint=hint)
    try:
        applied = Patience(stop, "the ledger's database").insist(partial(migrate, settings.ledger_dsn))
    except RetryableError:
        return  # only a stop request ends that patience
    old_rows.check(settings, rules.by_name.values())
    _log.info("consumer_started", consumer=name, rules=sorted(rules.by_name), migrations=applied)
    with closing(LastLook(settings, rules, Effects(settings, rules.by_name.values()))) as effect:
        _run(settings, name, rules, effect, stop)
    _log.info("consumer_stopped", consumer=name)


def _run(settings: Settings, name: str, rules: Rules, effect: ClosableEffect, stop: Stop) -> None:
    worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    open_ledger = partial(Ledger, settings.ledger_dsn, name, worker)
    marks = Marks(open_ledger)
    reread = Reread(rules, open_ledger(), effect)
    open_lanes = lanes.of(settings, name, time.monotonic())
    lease_s = settings.consume.lease.total_seconds()
    deliver = Deliver(
        ledger=open_ledger(), marks=marks, effect=reread, rules=rules, lanes=open_lanes, lease_s=lease_s, stop=stop
    )
    ingest = Ingest(settings, rules, open_ledger(), stop, deliver.wake.set)
    health.serve(settings.metrics.listen, lambda: _is_recent(ingest.polled_at) and _is_recent(deliver.turned_at))
    writer, crew = Crew(stop), Crew(stop)
    writer.start("marks", marks.run)
    crew.start("ingest", ingest.run)
    for number in range(open_lanes.workers):
        crew.start(f"worker-{number}", deliver.work)
    if settings.metrics.listen:
        crew.start("measure", partial(_measure, open_ledger(), open_lanes, rules, stop))
    crew.start("orphans", partial(orphans.run, open_ledger(), rules.by_name, stop))
    crew.start("retention", partial(retention.run, open_ledger(), settings, stop))
    crew.start("claim", deliver.run)
    if not any(rule.target for rule in rules.by_name.values()):  # a user's function may need more, and start processes
        crew.start("one-cpu", partial(one_cpu.stay, stop))
    while not stop.wait(3600):
        pass
    deliver.wake.set()
    crew.join(GRACE_S + 1)
    effect.close()  # what still waits for the other side is cut off: it goes back, or is in doubt, and says so
    crew.join(3)
    marks.end()
    writer.join(5)
    _raise(writer.failure or crew.failure)


def _is_recent(at_s: float) -> bool:
    return time.monotonic() - at_s < _STUCK_S


def _measure(ledger: Ledger, open_lanes: lanes.Lanes, rules: Rules, stop: Stop) -> None:
    while not stop.wait(_MEASURE_S):
        try:
            journal.measure(ledger, open_lanes.names, rules.by_name)
        except RetryableError:
            continue  # the loops say it


def _raise(failure: BaseException | None) -> None:
    if failure is None:
        return
    if isinstance(failure, ServiceError):
        raise failure
    # Never a foreign error's text: it may hold a row's value.
    raise FatalError(f"unexpected {type(failure).__name__} at {journal.where(failure)}") from None
