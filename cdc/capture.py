"""The reader's loop: slot -> events -> one Kafka transaction with the position -> slot.

The slot is the lock. Streaming starts first, then the transactional id is taken over, then the last position is read,
then the first line: whoever comes second waits at the first step and disturbs nobody.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack
from typing import Final

from cdc import command, wal2json
from cdc.contract.event import Event
from cdc.contract.lsn import parse_lsn
from cdc.contract.position import Position, PositionRecord, Witness
from cdc.cutting import ACTION_AT
from cdc.lag import Lag
from cdc.routing import OWN_PREFIX
from cdc.runtime import metrics
from cdc.runtime.backoff import delay_s
from cdc.runtime.errors import ChangeUndecodable, RetryableError, SlotInUse
from cdc.runtime.lifecycle import Stop, Stopped
from cdc.runtime.log import get_logger
from cdc.runtime.settings import Settings
from cdc.skip import Skip, stopped_at
from cdc.start import Attempts, Session, open_session
from cdc.wal2json import Begin, Change, Commit, Message, RowChange, Truncate

_log = get_logger("capture")

#: Where the slot has nothing more to read, few events go at once; the rest of their transaction is waited for so long.
_FEW_EVENTS: Final = 64
_REST_S: Final = 0.005
#: Many wait to be more: a commit costs as much as hundreds of events.
_MANY_AGE_S: Final = 0.025
#: Whatever comes, a Kafka transaction ends when it is this old: visibility stays bounded.
_MAX_AGE_S: Final = 0.25
_BURST: Final = 256
_COMMIT: Final = b'{"action":"C"'
_STANDBY_EVERY_S = 1.0
_IDLE_S, _GULP_S = 1.0, 0.001

#: Whether this process reads the slot now: what /ready tells.
streaming = False
lag = Lag()


class Stream:
    """One session with the slot, from the last committed position to the first error or a stop."""

    def __init__(self, session: Session, skip: Skip) -> None:
        self._slot, self._publisher, self._router, self._resume, self._backfill = session
        self._skip = skip
        self._xid = 0
        self._lsn = 0
        self._index = 0
        self._complete = True
        self._caught_up = False
        self._begun_us = 0
        #: How the C line of the open transaction ends, which is how its B line does; none ends so before the first.
        self._ending = b"{"
        #: Of the last change that was published: its transaction's end and when that was committed.
        self._published: tuple[int, int] | None = None
        self._oldest_us = 0
        #: What waits behind a start has waited longest: the first Kafka transaction ends sooner than the others.
        self._max_age_s = _MANY_AGE_S

    def run(self, stop: Stop) -> None:
        """Publish until a stop is requested; then end in order."""
        while not stop.requested:
            idle = not self._read_burst()
            self._backfill.step(self._lsn)
            due = self._commit_due(idle=idle)
            if due and self._publisher.ahead is None and self._publisher.events <= _FEW_EVENTS:
                # The broker takes longer for them than for the end: what is read meanwhile needs not wait for both.
                self._publisher.send(*self._resume.record(self._reached()))
            elif due:
                self._commit()
                time.sleep(self._publisher.markers.pause_s)
            self._slot.confirm()
            self._router.tables.look()
            if idle and not due:
                self._rest()
        if self._publisher.began_at is not None:
            self._commit()
        self._slot.confirm(now=True)

    def _rest(self) -> None:
        """Wait until there is something to do."""
        if self._publisher.began_at is None:
            lag.caught_up()
            self._slot.wait(min(_IDLE_S, self._backfill.patience_s))
        else:
            # Not at the socket, which would wake us for each line of those that can only be committed together.
            time.sleep(_GULP_S)

    def _read_burst(self) -> bool:
        """Read and publish while there is something; tell whether there may be more."""
        checkpoint, now_ns, left = self._slot.checkpoint, time.time_ns(), _BURST
        self._make_room()
        while left and (message := self._slot.message()):
            left -= 1
            self._take(message.payload, message.data_start, now_ns)
            if checkpoint.must_drain or self._publisher.is_full:
                self._make_room()
        return not left

    def _make_room(self) -> None:
        """Commit what must be in Kafka before anything else is read."""
        must_drain = self._slot.checkpoint.must_drain
        if must_drain or self._publisher.is_full:
            self._commit()
            self._slot.confirm(now=must_drain)

    def _take(self, line: bytes, data_start: int, now_ns: int) -> None:
        """Publish what one line says, unless the last position covers it."""
        self._index += 1
        event = self._router.quick(line, data_start, self._index, now_ns)
        if event is None:
            self._interpret(line, data_start, now_ns)
        elif self._caught_up and not self._skip.active and not self._backfill.active:
            self._send(event)  # nothing else is to be asked of most rows
        else:
            self._publish([event], Position(self._lsn, self._index))

    def _interpret(self, line: bytes, data_start: int, now_ns: int) -> None:
        if line.startswith(_COMMIT) and line.endswith(self._ending):
            self._end_of_transaction()
            return
        try:
            change = wal2json.decode(line)
            if isinstance(change, Begin):
                self._begin(change, line)
                return
            position = self._position_of(change, data_start)
            if isinstance(change, RowChange | Truncate) and command.is_own(change):
                self._obey(change, position)
                return
            events = self._router.events(change, position, now_ns)
        except ChangeUndecodable as exc:
            self._pass_or_stop(exc, line)
            return
        self._publish(events, position)
        if isinstance(change, Commit) or (isinstance(change, Message) and change.alone):
            self._end_of_transaction()
        elif isinstance(change, Message) and change.prefix == OWN_PREFIX:
            self._backfill.reached(command.nonce_of(change.content), self._lsn)

    def _publish(self, events: list[Event], position: Position) -> None:
        reading = self._backfill.active
        if reading:
            self._backfill.passed(self._xid, events)
        if events and self._is_new(position) and not self._is_skipped(position):
            if reading:
                self._backfill.published(events)
            for event in events:
                self._send(event)

    def _send(self, event: Event) -> None:
        if not self._oldest_us:
            self._oldest_us = self._begun_us
            lag.read(self._begun_us)
        if self._begun_us:
            self._published = self._lsn, self._begun_us
        self._publisher.publish(event)

    def _is_new(self, position: Position) -> bool:
        """Tell whether a change is not yet in Kafka; behind the first such one all are."""
        self._caught_up = self._caught_up or self._resume.is_new(position)
        return self._caught_up

    def _obey(self, change: RowChange | Truncate, position: Position) -> None:
        if self._resume.is_new(position) and (asked := command.read(change)):
            self._backfill.obey(asked)

    def _begin(self, change: Begin, line: bytes) -> None:
        self._lsn, self._index, self._complete = parse_lsn(change.nextlsn), 0, False
        self._ending = line[ACTION_AT + 1 :]
        self._xid, self._begun_us = change.xid, self._router.begin(change, self._lsn)
        if self._resume.unmet:
            self._resume.meet(self._lsn, self._begun_us)

    def _position_of(self, change: Change, data_start: int) -> Position:
        if isinstance(change, Message) and change.alone:
            self._lsn, self._index, self._begun_us = data_start, 0, 0
        return Position(self._lsn, self._index)

    def _end_of_transaction(self) -> None:
        self._complete = True
        self._router.end(self._lsn)
        self._slot.checkpoint.complete(self._lsn)
        if self._publisher.began_at is None:
            # Nothing of it needs to be in Kafka, or all of it is: an idle or filtered slot moves on too.
            self._slot.checkpoint.acknowledge()

    def _commit_due(self, *, idle: bool) -> bool:
        began_at, now_s = self._publisher.began_at, time.monotonic()
        if began_at is None:
            return False
        if self._publisher.is_full or now_s - began_at >= self._max_age_s:
            return True
        if self._publisher.events > _FEW_EVENTS:
            return idle and now_s - began_at >= _MANY_AGE_S
        return idle and (self._complete or now_s - began_at >= _REST_S)

    def _commit(self) -> None:
        """Commit events and position together, then let the slot know.

        A crash before the commit: nothing is visible and the slot gives it all again. Between the commit and the
        confirmation: the lines come again, and the position makes us skip them.
        """
        if self._publisher.began_at is not None:
            reached = self._reached()
            self._publisher.commit(*self._resume.record(reached))
            self._resume.state = reached
            self._backfill.committed()
            self._measure()
            self._max_age_s = _MAX_AGE_S
        self._slot.checkpoint.acknowledge()

    def _reached(self) -> PositionRecord:
        # Rows of a snapshot may come before the first line, or while lines are skipped.
        position, complete = max(
            (Position(self._lsn, self._index), self._complete), (self._resume.position, self._resume.state.complete)
        )
        witness = Witness(*self._published) if self._published else None
        return self._resume.at(position, complete=complete, witness=witness)

    def _measure(self) -> None:
        if self._oldest_us:
            late_s = max(0.0, time.time() - self._oldest_us / 1e6)
            metrics.commit_to_kafka_seconds.observe(late_s)
            lag.published(self._begun_us)
        self._oldest_us = 0

    def _is_skipped(self, position: Position) -> bool:
        return self._skip.active and self._skip.leaves_out(self._resume.event_id(position))

    def _pass_or_stop(self, exc: ChangeUndecodable, line: bytes) -> None:
        """Stop at a line that can't be used; leave it out when the operator said so, or when it was left out before."""
        position = Position(self._lsn, self._index)
        if self._resume.is_new(position) and not self._is_skipped(position):
            exc.fields.update(wal2json.fingerprint(line))
            raise stopped_at(exc, self._resume.event_id(position)) from exc


def run(settings: Settings, stop: Stop, skip: Skip) -> None:
    """Read until a stop is requested; come back after everything that may pass. Raises FatalError for the rest."""
    global streaming
    attempt = 0
    standby = False
    attempts = Attempts(Counter(), set())
    while not stop.requested:
        try:
            with ExitStack() as opened:
                session = open_session(settings, opened, stop, attempts, skip)
                position = session.resume.position
                _log.info("streaming", slot=session.slot.name, lsn=position.lsn, index=position.index)
                standby, streaming = False, True
                try:
                    Stream(session, skip).run(stop)
                finally:
                    # What got through shows that the faults before it are over: the next one is a first again.
                    attempt = 0 if session.resume.position > position else attempt
        except Stopped:
            return
        except SlotInUse:
            if not standby:
                _log.info("standing_by", reason="another process reads the slot")
            standby = True
            stop.wait(_STANDBY_EVERY_S)
        except ChangeUndecodable as exc:
            raise skip.way_on(exc) from exc
        except RetryableError as exc:
            attempt += 1
            wait_s = delay_s(attempt, 0.2, 10.0, random.random())  # noqa: S311  no secret
            _log.warning("trying_again", error=str(exc), attempt=attempt, wait_s=round(wait_s, 2))
            stop.wait(wait_s)
        finally:
            streaming = False
