"""The first snapshot, read in one go: every row as it was where the slot begins, before the stream goes on from there.

Interrupted, it is not begun again: the exported snapshot is gone with its session, and Backfill reads the rest.
"""

from __future__ import annotations

import time
from typing import Final

from msgspec.structs import replace

from cdc import snapshot
from cdc.history import Envelopes, Markers, OldRow, Origin
from cdc.publisher import Publisher
from cdc.resume import Resume
from cdc.rows import TablePlan
from cdc.runtime.errors import ChangeUndecodable
from cdc.runtime.lifecycle import Stop, Stopped
from cdc.runtime.log import get_logger
from cdc.runtime.postgres import Connection
from cdc.skip import Skip, unreadable_row
from cdc.slot import Slot

_log = get_logger("snapshot")

_CHUNK_ROWS = 50_000
#: After how many rows the clock is asked.
_TICK_ROWS: Final = 500
#: Rows that come slowly must not let the transaction time out.
_COMMIT_AGE_S: Final = 1.0
_TELL_EVERY_S = 5.0


class Initial:
    """Publishes the snapshot of a new slot, under the slot's lock. The slot gets its feedback, the stream waits."""

    def __init__(
        self, resume: Resume, publisher: Publisher, held: Slot, origin: Origin, stop: Stop, skip: Skip
    ) -> None:
        self._resume = resume
        self._publisher = publisher
        self._slot = held
        self._origin = origin
        self._stop = stop
        self._skip = skip
        self._markers = Markers(self._publish)
        self._envelopes: dict[str, Envelopes] = {}
        self._plans: dict[str, TablePlan] = {}
        #: What is not yet in Kafka to its end; of the first one, `_rows` rows up to `_last` are.
        self._left = list(resume.state.snapshot.tables)
        self._recovers = any(reading.why == "recovery" for reading in self._left)
        self._rows = 0
        self._now_ns = time.time_ns()
        self._last: OldRow | None = None
        self._told_at = time.monotonic()

    def run(self, connection: Connection, plans: list[TablePlan]) -> None:
        """Publish every row that the connection's open transaction sees. Raises Stopped behind a commit."""
        began_at = time.monotonic()
        for plan in plans:
            self._plans[plan.title] = plan
            self._envelopes[plan.title] = Envelopes(self._origin, plan)
            try:
                self._read(connection, plan)
            except ChangeUndecodable as exc:
                raise unreadable_row(exc, self._origin.name, self._origin.epoch, self._origin.lsn) from exc
        self._markers.end()
        self._left.clear()
        self._commit()
        _log.info("snapshot_done", seconds=round(time.monotonic() - began_at, 2))

    def _read(self, connection: Connection, plan: TablePlan) -> None:
        def take(row: OldRow) -> None:
            self._markers.add(plan, row)

        if not plan.key:
            snapshot.read_rows(connection, plan, take, self._skip)
            return
        snapshot.bring_key_operators(connection, plan)
        after: tuple[str, ...] = ()
        while upto := snapshot.chunk_end(connection, plan, after, _CHUNK_ROWS):
            snapshot.read_rows(connection, plan, take, self._skip, between=(after, upto), limit=_CHUNK_ROWS)
            after = upto
        snapshot.read_rows(connection, plan, take, self._skip, between=(after, ()), limit=_CHUNK_ROWS)

    def _publish(self, plan: TablePlan, row: OldRow, marker: str) -> None:
        while self._left[0].title != plan.title:
            self._left.pop(0)
            self._rows = 0
        marker = "recovery" if self._recovers else marker
        event = self._envelopes[plan.title].event(row, marker, self._now_ns)
        if self._skip.lets_through(event):
            self._publisher.publish(event)
        self._rows += 1
        self._last = row
        is_due = self._publisher.is_full
        if self._rows % _TICK_ROWS == 0:
            self._now_ns = time.time_ns()
            is_due = is_due or time.monotonic() - (self._publisher.began_at or 0.0) >= _COMMIT_AGE_S
        if is_due:
            self._commit()
            if self._stop.requested:
                raise Stopped

    def _commit(self) -> None:
        """Commit rows and progress together: a crash before it repeats the reading, a crash after it goes on behind."""
        if self._left and self._last is not None:
            plan = self._plans[self._left[0].title]
            after = self._last.place if snapshot.is_resumable(plan) else ()
            self._left[0] = replace(self._left[0], after=after, rows=self._rows)
        state = replace(
            self._resume.state.snapshot, state="running" if self._left else "done", tables=tuple(self._left)
        )
        self._publisher.commit(*self._resume.snapshot(state))
        self._slot.confirm()
        if self._left and time.monotonic() - self._told_at > _TELL_EVERY_S:
            self._told_at = time.monotonic()
            _log.info("snapshot_running", table=self._left[0].title, rows=self._rows)
