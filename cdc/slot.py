"""The replication slot: create it, hold it, read its lines, confirm. psycopg2's part of the guard lives here.

Whoever streams from the slot holds it: PostgreSQL lets one process in, and that is the reader's lock.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psycopg2
from psycopg2 import extras

from cdc import refusals
from cdc.checkpoint import Checkpoint
from cdc.contract.lsn import format_lsn, parse_lsn
from cdc.relation import Cluster, read_history
from cdc.runtime import postgres
from cdc.runtime.errors import AccessDenied, ConnectionLost, RetryableError, ServiceError
from cdc.runtime.log import get_logger
from cdc.session import lift_limits, session_options

_log = get_logger("slot")

#: How long the server waits for feedback before it drops us.
WAL_SENDER_TIMEOUT_S = 30
#: Far more often than that: with it an idle slot moves on, past what others write (psycopg2 confirms that by itself).
_FEEDBACK_EVERY_S = 2.0
#: Confirming late is cheap (lines are skipped after a crash), and makes draining rare.
_CONFIRM_EVERY_S = 1.0
#: Nothing came for so long: over a line that went silent the server has given us up by now, and the slot with us.
_SILENCE_S = WAL_SENDER_TIMEOUT_S + 5.0
#: Any role may make it, unless that right was taken from PUBLIC, and it leaves nothing.
CATALOG_CHANGE = "SELECT lo_unlink(lo_create(0))"
_ADVANCE = "SELECT end_lsn FROM pg_replication_slot_advance(%s, %s)"
_DROP = "SELECT pg_drop_replication_slot(%s)"


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a new slot begins, and the snapshot that fits it exactly."""

    lsn: int
    snapshot_name: str


class Slot:
    """A replication connection and the stream over it. Not thread-safe."""

    def __init__(self, dsn: str, name: str) -> None:
        self.name = name
        self.checkpoint = Checkpoint()
        self._dsn = dsn
        self._connection = postgres.connect(
            dsn,
            application_name=f"pgherald capture {name}",
            connection_factory=extras.LogicalReplicationConnection,
            options=session_options({"wal_sender_timeout": f"{WAL_SENDER_TIMEOUT_S}s"}),
        )
        lift_limits(self._connection)
        self._cursor = cast(extras.ReplicationCursor, self._connection.cursor())
        #: Slots are the whole server's; no two of its processes have one id.
        process = self._connection.info.backend_pid
        self._knowing, self._beginning = f"pgherald_{process}_knowing", f"pgherald_{process}_beginning"
        self._streaming = False
        self._confirmed_at = self._fed_back_at = self._heard_at = time.monotonic()
        self._heard = False

    def close(self) -> None:
        """Give the slot free."""
        self._connection.close()

    def identify(self) -> Cluster:
        """Ask which cluster this is. Raises ConnectionLost while it is a standby."""
        with postgres.errors():
            self._cursor.execute("SELECT pg_is_in_recovery()")
            if _one(self._cursor)[0]:
                raise refusals.in_recovery()
            self._cursor.execute("IDENTIFY_SYSTEM")
            system_id, timeline, end, database = _one(self._cursor)
            return Cluster(str(system_id), int(timeline), str(database), parse_lsn(end), self._history(int(timeline)))

    def _history(self, timeline: int) -> dict[int, int]:
        if timeline == 1:
            return {}  # the first one has no file
        self._cursor.execute(f"TIMELINE_HISTORY {timeline}")
        content = _one(self._cursor)[1]
        return read_history(content if isinstance(content, str) else bytes(content).decode())

    def begin(self) -> Beginning:
        """Find where a new slot is to begin. The snapshot lasts until `create`, the next command on this connection.

        While a slot waits for those who write, PostgreSQL misses the DDL that others commit, and takes old shapes for
        the present ones until the next DDL: columns are left out, a table that was emptied ends the stream. So one slot
        knows the catalog, from our own change of it on, and a second one, which waits for all who began to write before
        that, says where to begin. See deploy/decisions/0022.

        Raises AccessDenied with the statement that helps: wal_level, the plugin, the right.
        """
        with _creating():
            self._cursor.execute("SELECT pg_create_logical_replication_slot(%s, 'wal2json', true)", (self._knowing,))
            self._cursor.execute(CATALOG_CHANGE)
            self._cursor.execute(f'CREATE_REPLICATION_SLOT "{self._beginning}" TEMPORARY LOGICAL "wal2json"')
            _, consistent, snapshot, _ = _one(self._cursor)
            return Beginning(parse_lsn(consistent), snapshot)

    def create(self, beginning: Beginning) -> None:
        """Make the slot, now that its snapshot is in use. Raises SlotInUse when another process made it meanwhile."""
        with _creating():
            # One after the other: there may be room for few.
            self._cursor.execute(_DROP, (self._beginning,))
            self._cursor.execute(_ADVANCE, (self._knowing, format_lsn(beginning.lsn)))
            if parse_lsn(_one(self._cursor)[0]) != beginning.lsn:
                raise ConnectionLost("the new slot would not begin where its snapshot does")
            self._cursor.execute("SELECT pg_copy_logical_replication_slot(%s, %s, false)", (self._knowing, self.name))
            self._cursor.execute(_DROP, (self._knowing,))

    def cancel(self) -> None:
        """Break off what another thread asks of the connection. Safe from any thread."""
        with postgres.errors():
            self._connection.cancel()

    def start_lsn(self, connection: postgres.Connection) -> int:
        """Ask where the stream begins: what was last confirmed."""
        query = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
        with postgres.errors(), closing(connection.cursor()) as cursor:
            cursor.execute(query, (self.name,))
            row = cursor.fetchone()
        if row is None:
            raise refusals.gone(self.name)
        return parse_lsn(row[0])

    def start(self, options: Mapping[str, str]) -> None:
        """Start streaming from what was last confirmed. Raises SlotInUse while another process has the slot."""
        try:
            self._cursor.start_replication(slot_name=self.name, options=dict(options), decode=False)
        except psycopg2.Error as exc:
            refusal = refusals.cannot_start(exc.pgcode or "", str(exc), self.name)
            raise refusal or postgres.classify(exc) from exc
        self._streaming = True
        self.feed_back()

    def message(self) -> extras.ReplicationMessage | None:
        """Give the next line if it is there. Raises ConnectionLost.

        The caller has asked `checkpoint.must_drain` before.
        """
        try:
            message = self._cursor.read_message()
        except psycopg2.Error as exc:
            raise self._not_read(exc) from exc
        if message is not None:
            self._heard = True
            self.checkpoint.read(message.data_start)
        return message

    def _not_read(self, exc: psycopg2.Error) -> ServiceError:
        """Tell a line that breaks from a change that PostgreSQL can't decode: that one would come again for ever."""
        error = postgres.classify(exc)
        if isinstance(error, RetryableError | AccessDenied):
            return error
        return refusals.cannot_decode(exc.pgcode or "none", self.name, self.checkpoint.read_lsn)

    def wait(self, timeout_s: float) -> None:
        """Wait until something can be read, but no longer than this."""
        select.select([self._connection], [], [], timeout_s)

    def confirm(self, *, now: bool = False) -> None:
        """Confirm what is safe, about once a second, and give feedback in time whatever else happens.

        A crash before it: the lines come again and are skipped by their position. A crash after it: they are in Kafka.
        """
        if not self._streaming:
            return
        clock = time.monotonic()
        if self._heard:
            self._heard, self._heard_at = False, clock
        elif clock - self._heard_at >= _SILENCE_S:
            self._ask_who_holds_it()
            self._heard_at = clock
        due = now or clock - self._confirmed_at >= _CONFIRM_EVERY_S
        if due and self.checkpoint.safe_lsn() > self.checkpoint.confirmed_lsn:
            self._send(self.checkpoint.safe_lsn())
            self._confirmed_at = clock
        elif clock - self._fed_back_at >= _FEEDBACK_EVERY_S:
            self.feed_back()

    def feed_back(self) -> None:
        """Tell the server that we live, without confirming anything new. Never asks for a reply: see Checkpoint."""
        self._send(self.checkpoint.confirmed_lsn)

    def _ask_who_holds_it(self) -> None:
        """Ask over another connection whether the slot is still ours. Raises ConnectionLost when it is not.

        TCP alone does not tell: a proxy or a load balancer acknowledges what it never passes on. And silence alone is
        no fault: nobody may be writing, or a transaction that does not concern us takes its time to decode.
        """
        try:
            with closing(postgres.connect(self._dsn, application_name=f"pgherald capture {self.name}")) as connection:
                held_by = active_pid(connection, self.name)
        except ServiceError as exc:
            _log.info("slot_unanswered", why=str(exc))  # too many clients, say: no reason to let go of what we hold
            return
        if held_by != self._connection.info.backend_pid:
            raise ConnectionLost("the line to PostgreSQL went silent, and the server gave the slot free")

    def _send(self, lsn: int) -> None:
        self.checkpoint.confirm(lsn)
        with postgres.errors():
            self._cursor.send_feedback(flush_lsn=lsn, force=True)  # type: ignore[no-untyped-call]
        self._fed_back_at = time.monotonic()


def _one(cursor: extras.ReplicationCursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise ConnectionLost("PostgreSQL answered a replication command with nothing")
    return row


@contextmanager
def _creating() -> Iterator[None]:
    try:
        yield
    except psycopg2.Error as exc:
        raise cannot_create(exc) from exc


def cannot_create(exc: psycopg2.Error) -> ServiceError:
    """Tell why a slot can't be made, with the statement that helps."""
    return refusals.cannot_create(exc.pgcode or "", str(exc)) or postgres.classify(exc)


def exists(connection: postgres.Connection, name: str) -> bool:
    """Tell whether the slot is there. Raises AccessDenied when it is none for us, with the reason."""
    with postgres.errors(), closing(connection.cursor()) as cursor:
        cursor.execute(
            "SELECT plugin, database, current_database() FROM pg_replication_slots WHERE slot_name = %s", (name,)
        )
        found = cursor.fetchone()
    if found is None:
        return False
    if refusal := refusals.not_ours(name, *found):
        raise refusal
    return True


def is_active(connection: postgres.Connection, name: str) -> bool:
    """Tell whether a process reads the slot now."""
    return active_pid(connection, name) is not None


def active_pid(connection: postgres.Connection, name: str) -> int | None:
    """Give the server's process through which the slot is read now."""
    with postgres.errors(), closing(connection.cursor()) as cursor:
        cursor.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", (name,))
        row = cursor.fetchone()
    return row[0] if row else None
