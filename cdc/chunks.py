"""Reads chunks in a thread of its own: however long PostgreSQL takes, the stream flows meanwhile."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from cdc import snapshot
from cdc.contract.position import Reading
from cdc.contract.xid import Seen
from cdc.history import OldRow
from cdc.rows import TablePlan
from cdc.runtime import postgres
from cdc.runtime.errors import PermanentError, ServiceError
from cdc.runtime.fields import TableName
from cdc.runtime.log import get_logger
from cdc.runtime.postgres import Connection
from cdc.skip import Skip

_log = get_logger("snapshot")

#: A chunk is held in memory until the stream has reached its watermark: it is to be small, and quick to read.
_FIRST_ROWS = 2000
_MAX_ROWS = 5000
_MAX_BYTES = 3_000_000
_AIM_S = 0.2
_LOOK_AGAIN_S = 0.05
_TELL_AFTER_S = 5.0


@dataclass(slots=True)
class Chunk:
    """Rows of one table, and up to where they are all of it."""

    reading: Reading
    #: Of the watermark behind it; empty where rows have no key that the stream could name.
    nonce: str
    visible: Seen
    plan: TablePlan
    rows: list[OldRow] = field(default_factory=list)
    #: The key up to which this is every row; empty where reading can't go on behind one.
    upto: tuple[str, ...] = ()
    #: Whether it reaches to the table's end.
    ends: bool = False
    size_bytes: int = 0

    @property
    def last(self) -> tuple[str, ...]:
        """The key up to which the table is read with it."""
        return self.upto or (self.rows[-1].place if self.rows else self.reading.after)

    def take(self, row: OldRow) -> None:
        """Keep a row while there is room; the next chunk begins behind the last one that was kept."""
        if self.size_bytes < _MAX_BYTES:
            self.rows.append(row)
        else:
            self.upto, self.ends = self.rows[-1].place, False
        self.size_bytes += len(row.after)


class ChunkReader:
    """One chunk is asked for at a time, and comes when it comes; a table without a key comes in many parts."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        plan_of: Callable[[Connection, TableName], TablePlan | None],
        skip: Skip,
    ) -> None:
        self._connect = connect
        self._plan_of = plan_of
        self._skip = skip
        self._connection: Connection | None = None
        self._answers: queue.Queue[Chunk | Exception] = queue.Queue(maxsize=2)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._rows = _FIRST_ROWS
        #: The newest snapshot: every chunk that is still to come sees at least what it sees.
        self.visible: Seen | None = None

    def ask(self, reading: Reading, nonce: str, *, settle: bool) -> None:
        """Begin to read what comes next in a table; with `settle` once the transactions that run now have ended."""
        job = (reading, nonce, settle)
        self._thread = threading.Thread(target=self._work, args=job, name="snapshot", daemon=True)
        self._thread.start()

    def answer(self, timeout_s: float = 0.0) -> Chunk | None:
        """Give the chunk that was asked for, or None while it is not there. Raises what reading it raised."""
        try:
            answer = self._answers.get(timeout=timeout_s) if timeout_s else self._answers.get_nowait()
        except queue.Empty:
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Break off what is being read."""
        self._closed.set()
        connection = self._connection
        if connection is None:
            return
        if self._thread is not None and self._thread.is_alive():
            with suppress(ServiceError), postgres.errors():
                connection.cancel()
            self._thread.join(2.0)
        connection.close()

    def _work(self, reading: Reading, nonce: str, settle: bool) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect()
            if settle:
                self._settle(self._connection)
            self._read(self._connection, reading, nonce)
        except Exception as exc:  # raised again where the answer is taken
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._give(exc)

    def _give(self, answer: Chunk | Exception) -> None:
        while not self._closed.is_set():
            with suppress(queue.Full):
                self._answers.put(answer, timeout=0.2)
                return

    def _settle(self, connection: Connection) -> None:
        """Wait for the transactions that were running when the window was opened, as a new slot does.

        The stream may have shown one before that while it is not yet visible (it waits for a standby): nobody could
        tell afterwards that a chunk's rows are older than what it wrote.
        """
        began_at, told = time.monotonic(), False
        snapshot.take_id(connection)
        old = self._look(connection).running
        while (left := old & self._look(connection).running) and not self._closed.wait(_LOOK_AGAIN_S):
            if not told and time.monotonic() - began_at > _TELL_AFTER_S:
                told = True
                _log.warning("snapshot_waits", transactions=len(left), see="pg_stat_activity.backend_xid")

    def _look(self, connection: Connection) -> Seen:
        with postgres.errors(), connection.cursor() as cursor:
            self.visible = snapshot.visible(cursor)
        return self.visible

    def _read(self, connection: Connection, reading: Reading, nonce: str) -> None:
        name = TableName(reading.schema, reading.table)
        seen = snapshot.begin(connection, locked=[name])
        self.visible = seen
        plan = self._plan_of(connection, name)
        if plan is None:
            raise PermanentError("the table is gone")
        chunk = Chunk(reading, nonce, seen, plan)
        if plan.key:
            self._read_chunk(connection, chunk)
        else:
            self._read_parts(connection, chunk)

    def _read_chunk(self, connection: Connection, chunk: Chunk) -> None:
        began_at = time.monotonic()
        reading, plan = chunk.reading, chunk.plan
        snapshot.bring_key_operators(connection, plan)
        chunk.upto = snapshot.chunk_end(connection, plan, reading.after, self._rows)
        chunk.ends = not chunk.upto
        between = (reading.after, chunk.upto)
        snapshot.read_rows(
            connection, plan, chunk.take, self._skip, between=between, condition=reading.where, limit=self._rows
        )
        snapshot.end(connection)
        snapshot.write_watermark(connection, chunk.nonce)
        self._adapt(time.monotonic() - began_at, chunk.size_bytes)
        self._give(chunk)

    def _adapt(self, took_s: float, size_bytes: int) -> None:
        """Let the next chunk be as large as time and memory allow."""
        factor = min(2.0, _AIM_S / max(took_s, 0.001), _MAX_BYTES / max(size_bytes, 1))
        self._rows = min(_MAX_ROWS, max(10, int(self._rows * factor)))

    def _read_parts(self, connection: Connection, whole: Chunk) -> None:
        """Read a table without a key to its end, in one statement, handing its rows on in parts."""
        part = self._part(whole)

        def take(row: OldRow) -> None:
            nonlocal part
            part.take(row)
            if len(part.rows) >= _FIRST_ROWS or part.size_bytes >= _MAX_BYTES / 4:
                self._give(part)
                part = self._part(whole)

        snapshot.read_rows(connection, whole.plan, take, self._skip, condition=whole.reading.where)
        snapshot.end(connection)
        part.ends = True
        self._give(part)

    @staticmethod
    def _part(whole: Chunk) -> Chunk:
        return Chunk(whole.reading, "", whole.visible, whole.plan)
