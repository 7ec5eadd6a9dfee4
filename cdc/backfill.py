"""Rows that were there before, published while the stream flows: chunk by chunk, each at its own place of the stream.

The loop asks for a chunk, goes on with the stream, and publishes the chunk where the watermark behind it comes by. By
then every change that the chunk has seen is published, and rows that changed since are left out of it.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter

from msgspec.structs import replace

from cdc import progress
from cdc.chunks import Chunk, ChunkReader
from cdc.command import Command
from cdc.contract.event import Event
from cdc.contract.position import Reading, SnapshotState
from cdc.contract.topics import table_topic
from cdc.history import Envelopes, OldRow, Origin
from cdc.moved import Moved, Streamed
from cdc.publisher import Publisher
from cdc.resume import Resume
from cdc.rows import TablePlan
from cdc.runtime.errors import ChangeUndecodable, ConnectionLost, PermanentError, RetryableError, ServiceError
from cdc.runtime.log import get_logger
from cdc.skip import Skip, unreadable_row
from cdc.snapshot import is_resumable
from cdc.watermark import Created, Window

_log = get_logger("snapshot")

_TELL_EVERY_S = 5.0
#: How many sessions may end without a chunk: a condition may be what ends them.
_MAX_TRIES = 3
_IDLE_S, _WAITING_S = 60.0, 0.01
_SAID = {"snapshot": "snapshot_asked", "pause": "snapshot_paused", "resume": "snapshot_resumed"}
#: The thread hands a chunk over right behind its watermark.
_HANDOVER_S = 10.0


class Backfill:
    """What is still to be read, beside the stream of one session. Not thread-safe: it belongs to the loop.

    Whatever changes the state opens a Kafka transaction: its position record says so. A crash before it is committed
    repeats the reading and nothing that anyone saw; a crash after it goes on behind it.
    """

    def __init__(
        self,
        resume: Resume,
        publisher: Publisher,
        database: str,
        reader: ChunkReader,
        tries: Counter[Reading],
        skip: Skip,
        streamed: Streamed,
    ) -> None:
        self._resume = resume
        self._publisher = publisher
        self._database = database
        self._reader = reader
        self._tries = tries
        self._skip = skip
        self._window: Window | None = None
        self._streamed = streamed
        #: The watermark that is waited for; empty while nothing is asked for.
        self._nonce = ""
        self._chunk: Chunk | None = None
        self._envelopes: Envelopes | None = None
        #: Where to go on in the first table; not all keys may stand in the record.
        self._after = self._state.tables[0].after if self._state.tables else ()
        #: Whether that table was read, and is read again for the rows that moved meanwhile.
        self._again = False
        self._told_at = time.monotonic()
        #: What the log says as soon as the open transaction is in Kafka.
        self._unsaid: list[tuple[str, dict[str, object]]] = []
        #: Whether a table is still to be read: what passes by is then to be shown. Asked for each row.
        self.active = bool(self._state.tables)
        self._tries.update(self._state.tables[:1])

    @property
    def _state(self) -> SnapshotState:
        return self._resume.state.snapshot

    @property
    def patience_s(self) -> float:
        """How long the loop may wait for the stream alone."""
        return _WAITING_S if self._nonce and self._chunk is None else _IDLE_S

    def close(self) -> None:
        """Break off what is being read."""
        self._reader.close()

    def obey(self, asked: Command) -> None:
        """Do what an operator asked for."""
        if asked.slot != self._resume.slot:
            return
        if asked.action == "snapshot":
            try:
                reading = replace(asked.reading, since_ms=time.time_ns() // 1_000_000)
                self._set(progress.asked(self._state, reading))
                self._streamed.created.forget(table_topic(self._resume.name, asked.schema_name, asked.table_name))
            except PermanentError as exc:
                _log.error("snapshot_failed", command=asked.id, why=str(exc))
                return
        elif asked.action in ("pause", "resume"):
            self._set(progress.paused(self._state, pause=asked.action == "pause"))
        _log.info(_SAID.get(asked.action, "snapshot_command_unknown"), command=asked.id)

    def passed(self, xid: int, events: list[Event]) -> None:
        """Note a change of the stream."""
        if self._window is not None:
            self._window.passed(xid, events)

    def published(self, events: list[Event]) -> None:
        """Note what of the stream is new, and on its way to Kafka in the open transaction."""
        self._streamed.published(events)

    def committed(self) -> None:
        """Say what is done, now that it is in Kafka.

        A crash before the commit repeats the reading; one between commit and log leaves it unsaid, and `status` knows.
        """
        for what, fields in self._unsaid:
            _log.info(what, **fields)
        self._unsaid.clear()

    def step(self, lsn: int) -> None:
        """Ask for the next chunk, or see whether what was asked for has come."""
        if not self._nonce:
            self._ask_next()
            return
        if self._window is not None and self._reader.visible is not None:
            self._window.forget(self._reader.visible)
        if self._chunk is None and (chunk := self._answer()):
            if chunk.nonce:
                self._chunk = chunk
            else:
                self._publish(chunk, chunk.rows, max(lsn, self._resume.position.lsn))

    def reached(self, nonce: str, lsn: int) -> None:
        """Publish the chunk that this watermark stands behind; one that nobody waits for means nothing."""
        if not nonce or nonce != self._nonce or self._window is None:
            return
        chunk = self._chunk or self._answer(_HANDOVER_S)
        if chunk is None and self._nonce:
            raise RetryableError("a chunk was read and did not come")
        self._nonce, self._chunk = "", None
        if chunk is None or self._window.overflown:
            self._window = None  # too much passed by to tell what is still true: read it again
            return
        rows = {row.key: row.after for row in chunk.rows if row.key is not None and self._wants(chunk.plan, row.key)}
        true = self._window.still_true(chunk.visible, chunk.plan.topic, rows)
        self._window.forget(chunk.visible)
        self._publish(chunk, [replace(row, after=true[row.key]) for row in chunk.rows if row.key in true], lsn)

    def _wants(self, plan: TablePlan, key: bytes) -> bool:
        created, moved = self._streamed
        return moved.lacks(plan.topic, key) if self._again else key not in created.of(plan.topic)

    def _ask_next(self) -> None:
        if not self._state.tables or self._state.paused:
            self._window = None
            self._streamed = self._streamed if self._state.tables else Streamed(Created(), Moved())
            return
        first = self._state.tables[0]
        if first.where and self._tries[first] > _MAX_TRIES:
            self._give_up(PermanentError(f"no chunk of it came in {_MAX_TRIES} sessions"))
            return
        opens = self._window is None
        self._window = self._window or Window()
        self._nonce = secrets.token_hex(16)
        self._reader.ask(replace(first, after=self._after), self._nonce, settle=opens)

    def _answer(self, timeout_s: float = 0.0) -> Chunk | None:
        try:
            return self._reader.answer(timeout_s)
        except ServiceError as exc:
            self._nonce = ""
            self._give_up(self._named(exc) if isinstance(exc, ChangeUndecodable) else exc)
            return None

    def _named(self, exc: ChangeUndecodable) -> ChangeUndecodable:
        state = self._resume.state
        return unreadable_row(exc, self._resume.name, state.epoch, state.lsn)

    def _give_up(self, exc: ServiceError) -> None:
        """Leave a table that can't be read. What an operator asked for never stops capture, our own reading does."""
        first = self._state.tables[0]
        lost = isinstance(exc, ConnectionLost) or (isinstance(exc, RetryableError) and not first.where)
        if lost or (first.why != "incremental" and not isinstance(exc, PermanentError)):
            raise exc
        _log.error("snapshot_failed", table=first.title, rows=first.rows, why=str(exc))
        self._finish()

    def _publish(self, chunk: Chunk, rows: list[OldRow], lsn: int) -> None:
        envelopes = self._envelopes = (
            self._envelopes if not chunk.nonce and self._envelopes else self._make(chunk.plan, lsn)
        )
        marker = "recovery" if chunk.reading.why == "recovery" else "incremental"
        now_ns = time.time_ns()
        for row in rows:
            event = envelopes.event(row, marker, now_ns)
            if self._skip.lets_through(event):
                self._publisher.publish(event)
        self._streamed.moved.told(chunk.plan.topic, [row.key for row in rows])
        self._after = chunk.upto
        self._set(progress.advanced(self._state, self._place_of(chunk), len(rows)))
        if chunk.ends and self._streamed.moved.seek(chunk.plan.topic):
            self._again = True
            _log.info("snapshot_again", table=chunk.reading.title, reason="rows that were not yet read moved")
        elif chunk.ends:
            first = self._state.tables[0]
            self._unsaid.append(("snapshot_table_done", {"table": first.title, "rows": first.rows, "why": first.why}))
            self._finish()
        elif time.monotonic() - self._told_at > _TELL_EVERY_S:
            self._told_at = time.monotonic()
            _log.info("snapshot_running", table=chunk.reading.title, rows=self._state.tables[0].rows)

    def _place_of(self, chunk: Chunk) -> tuple[str, ...]:
        """Give the place for the record: at the table's end, it stays there while rows that moved are looked for.

        A crash then makes us read on from there, and look for them anew.
        """
        if self._again:
            return self._state.tables[0].after
        return chunk.last if is_resumable(chunk.plan) else ()

    def _make(self, plan: TablePlan, lsn: int) -> Envelopes:
        name, epoch = self._resume.name, self._resume.state.epoch
        return Envelopes(Origin(name, self._database, epoch, lsn, None, time.time_ns() // 1000), plan)

    def _finish(self) -> None:
        self._nonce, self._after, self._envelopes, self._again = "", (), None, False
        first = self._state.tables[0]
        self._streamed.moved.stop(table_topic(self._resume.name, first.schema, first.table))
        self._set(progress.finished(self._state))
        if self._state.state == "done":
            self._unsaid.append(("snapshot_done", {}))

    def _set(self, state: SnapshotState) -> None:
        self._resume.state = replace(self._resume.state, snapshot=state)
        self.active = bool(state.tables)
        self._publisher.begin()
