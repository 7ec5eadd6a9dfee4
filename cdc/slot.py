"""The replication slot: create it, hold it, read its lines, confirm. psycopg2's part of the guard lives here.

Whoever streams from the slot holds it: PostgreSQL lets one process in, and that is the reader's lock.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import psycopg2
from psycopg2 import extras

from cdc.checkpoint import Checkpoint
from cdc.contract.position import parse_lsn
from cdc.relation import Cluster
from cdc.runtime import postgres
from cdc.runtime.errors import AccessDenied, ConnectionLost, ServiceError, SlotInUse, SlotLost
from cdc.wal2json import SESSION

#: How long the server waits for feedback before it drops us; feedback goes out at least four times as often.
WAL_SENDER_TIMEOUT_S = 30
_FEEDBACK_EVERY_S = WAL_SENDER_TIMEOUT_S / 4
#: Confirming late is cheap (lines are skipped after a crash), and makes draining rare.
_CONFIRM_EVERY_S = 1.0
RECOVER = "`pgherald slot recover` makes a new slot and reads again what may be missing"
#: Types and tables of the user are named with their schema, whatever the role's search_path is.
_PINNED = {**SESSION, "search_path": "pg_catalog", "client_encoding": "UTF8"}


def session_options(extra: Mapping[str, str] | None = None) -> str:
    """Write libpq's `options` that pin a session, so that values always come as the same text."""
    pinned = {**_PINNED, **(extra or {})}
    return " ".join(f"-c {name}={value}" for name, value in pinned.items())


@dataclass(frozen=True, slots=True)
class Created:
    """A new slot: what it starts with, and the snapshot that fits it exactly."""

    consistent_lsn: int
    snapshot_name: str


class Slot:
    """A replication connection and the stream over it. Not thread-safe."""

    def __init__(self, dsn: str, name: str) -> None:
        self.name = name
        self.checkpoint = Checkpoint()
        self._connection = postgres.connect(
            dsn,
            application_name=f"pgherald capture {name}",
            connection_factory=extras.LogicalReplicationConnection,
            options=session_options({"wal_sender_timeout": f"{WAL_SENDER_TIMEOUT_S}s"}),
        )
        self._cursor = cast(extras.ReplicationCursor, self._connection.cursor())
        self._streaming = False
        self._confirmed_at = self._fed_back_at = time.monotonic()

    def close(self) -> None:
        """Give the slot free."""
        self._connection.close()

    def identify(self) -> Cluster:
        """Ask which cluster this is (IDENTIFY_SYSTEM)."""
        with postgres.errors():
            self._cursor.execute("IDENTIFY_SYSTEM")
            system_id, timeline, _, database = _one(self._cursor)
        return Cluster(str(system_id), int(timeline), str(database))

    def create(self) -> Created:
        """Create the slot; the snapshot lasts until the next command on this connection.

        Raises AccessDenied with the statement that helps: wal_level, the plugin, the right.
        """
        try:
            self._cursor.create_replication_slot(self.name, output_plugin="wal2json")
            _, consistent, snapshot, _ = _one(self._cursor)
        except psycopg2.Error as exc:
            raise cannot_create(exc) from exc
        return Created(parse_lsn(consistent), snapshot)

    def start_lsn(self, connection: postgres.Connection) -> int:
        """Ask where the stream begins: what was last confirmed."""
        query = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
        with postgres.errors(), closing(connection.cursor()) as cursor:
            cursor.execute(query, (self.name,))
            row = cursor.fetchone()
        if row is None:
            raise SlotLost(f"the slot {self.name} is gone", hint=RECOVER)
        return parse_lsn(row[0])

    def start(self, options: Mapping[str, str]) -> None:
        """Start streaming from what was last confirmed. Raises SlotInUse while another process has the slot."""
        try:
            self._cursor.start_replication(slot_name=self.name, options=dict(options), decode=False)
        except psycopg2.Error as exc:
            raise _cannot_start(exc, self.name) from exc
        self._streaming = True
        self.feed_back()

    def read(self) -> tuple[bytes, int] | None:
        """Take the next line and its data_start; None when nothing is there now.

        The caller has asked `checkpoint.must_drain`. Raises ConnectionLost.
        """
        with postgres.errors():
            message = self._cursor.read_message()
        if message is None:
            return None
        self.checkpoint.read(message.data_start)
        return message.payload, message.data_start

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
        due = now or clock - self._confirmed_at >= _CONFIRM_EVERY_S
        if due and self.checkpoint.safe_lsn() > self.checkpoint.confirmed_lsn:
            self._send(self.checkpoint.safe_lsn())
            self._confirmed_at = clock
        elif clock - self._fed_back_at >= _FEEDBACK_EVERY_S:
            self.feed_back()

    def feed_back(self) -> None:
        """Tell the server that we live, without confirming anything new. Never asks for a reply: see Checkpoint."""
        self._send(self.checkpoint.confirmed_lsn)

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


def cannot_create(exc: psycopg2.Error) -> ServiceError:
    """Tell why a slot can't be made, with the statement that helps."""
    if exc.pgcode == "55000":
        hint = "As a superuser: ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL"
        return AccessDenied("PostgreSQL's wal_level is not logical", hint=hint)
    if exc.pgcode == "58P01":
        hint = "Install it on the database server: Debian's package is postgresql-NN-wal2json"
        return AccessDenied("PostgreSQL has no wal2json", hint=hint)
    if exc.pgcode == "42710":
        return SlotInUse("another process made the slot just now")
    if exc.pgcode == "53400":
        hint = "Raise max_replication_slots and restart, or drop a slot that nobody reads (pg_replication_slots)"
        return AccessDenied("PostgreSQL has no replication slot left", hint=hint)
    return postgres.classify(exc)


def _cannot_start(exc: psycopg2.Error, name: str) -> ServiceError:
    if exc.pgcode == "42704":
        return SlotLost(f"the slot {name} is gone", hint=RECOVER)
    if exc.pgcode == "55000":
        return SlotLost(f"the slot {name} is invalidated: WAL that it needs was removed", hint=RECOVER)
    return postgres.classify(exc)


def exists(connection: postgres.Connection, name: str) -> bool:
    """Tell whether the slot is there. Raises AccessDenied when it belongs to another plugin or database."""
    with postgres.errors(), closing(connection.cursor()) as cursor:
        cursor.execute(
            "SELECT plugin, database, current_database() FROM pg_replication_slots WHERE slot_name = %s", (name,)
        )
        found = cursor.fetchone()
    if found is None:
        return False
    plugin, database, here = found
    if plugin != "wal2json" or database != here:
        raise AccessDenied(
            f"the slot {name} belongs to the plugin {plugin} in the database {database}",
            hint="Name another one in source.slot",
        )
    return True


def is_active(connection: postgres.Connection, name: str) -> bool:
    """Tell whether a process reads the slot now."""
    with postgres.errors(), closing(connection.cursor()) as cursor:
        cursor.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", (name,))
        row = cursor.fetchone()
    return bool(row and row[0])
