"""Positions in the WAL and the event ids made of them. Pure.

A position never goes back, and it is no identity across clusters: event ids carry the source's name and the epoch too.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import msgspec

from cdc.runtime.errors import EnvelopeInvalid


class Position(NamedTuple):
    """Where a change stands: the end LSN of its transaction, then its ordinal in the transaction.

    The ordinal counts every wal2json line after B from 1, before any filter of ours: it is the same in every run.
    A non-transactional message has a transaction of its own: its LSN and index 0.
    """

    lsn: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which no one asks of a position


#: Before everything: no transaction ends here.
START = Position(0, 0)


#: Why rows are read: `initial` before the stream, `recovery` after a lost slot, `incremental` on an operator's word.
Why = Literal["initial", "recovery", "incremental"]


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """One table whose rows are being read, or wait for it."""

    schema: str
    table: str
    why: Why = "initial"
    #: SQL of the operator: only these rows.
    where: str = ""
    #: The key up to which every row is in Kafka, as PostgreSQL's text; empty before the first.
    after: tuple[str, ...] = ()
    rows: int = 0
    #: When reading it beside the stream began: rows came as `c` since. 0 while no stream flows.
    since_ms: int = 0

    @property
    def title(self) -> str:
        """The table as logs and metrics name it."""
        return f"{self.schema}.{self.table}"


class SnapshotState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the rows that were there before are read; it travels with the position, in the same Kafka transaction."""

    #: `creating`: before the slot is there, and until its first rows are in Kafka.
    state: Literal["creating", "running", "done"]
    #: The LSN from which the stream goes on behind the first rows.
    lsn: int = 0
    #: What a slot that is `creating` reads its rows for.
    why: Why = "initial"
    #: What is still to be read; the first one is being read.
    tables: tuple[Reading, ...] = ()
    paused: bool = False


class Witness(msgspec.Struct, frozen=True):
    """A transaction, told from another one that has its LSN in a restored database."""

    lsn: int
    #: By PostgreSQL's clock.
    committed_us: int


class Part(NamedTuple):
    """A part of a partitioned table, whose rows are published as the root's."""

    schema: str
    table: str
    root_schema: str
    root_table: str


class PositionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the positions topic holds for a slot: everything up to here is in Kafka."""

    system_id: str
    timeline: int
    #: Raised by `slot recover`; part of every event id.
    epoch: int
    lsn: int
    index: int
    snapshot: SnapshotState
    #: Hash of the wal2json options under which the lines were counted.
    options: str
    #: Whether the position is the end of a transaction.
    complete: bool = True
    #: The last transaction of which events are in Kafka.
    witness: Witness | None = None
    #: The parts that were seen: the rows of one that is dropped meanwhile are still published.
    parts: tuple[Part, ...] = ()
    #: The tables that were captured, by schema and name: of one that is named since, the rows are still to be read.
    tables: tuple[tuple[str, str], ...] = ()

    @property
    def position(self) -> Position:
        """The last change that is in Kafka."""
        return Position(self.lsn, self.index)


_record_decoder = msgspec.json.Decoder(PositionRecord)


def decode_record(value: bytes) -> PositionRecord:
    """Read a position record. Raises EnvelopeInvalid."""
    try:
        return _record_decoder.decode(value)
    except msgspec.MsgspecError as exc:
        raise EnvelopeInvalid(f"no position record: {exc}") from exc


def event_id(name: str, epoch: int, position: Position) -> str:
    """Name a streamed change: `<name>:<epoch>:<end LSN as 16 hex digits>:<index>`."""
    return f"{name}:{epoch}:{position.lsn:016x}:{position.index}"


def snapshot_event_id(name: str, epoch: int, lsn: int, table: str, key: bytes | None) -> str:
    """Name a snapshot row; the key is hashed so that no row value stands in the id."""
    return f"{name}:{epoch}:snapshot:{lsn:016x}:{table}:{key_digest(key or b'')}"


def key_digest(key: bytes) -> str:
    """Hash a key as it stands in the event id of a snapshot row."""
    return hashlib.sha256(key).hexdigest()[:16]


def position_of(event_id: str) -> Position:
    """Read back where an event stands; snapshot rows stand at their snapshot's LSN, before every line after it.

    Raises EnvelopeInvalid when the text is no event id.
    """
    parts = event_id.split(":")
    try:
        if "snapshot" in parts[2:3]:
            return Position(int(parts[3], 16), 0)
        return Position(int(parts[2], 16), int(parts[3]))
    except (IndexError, ValueError) as exc:
        raise EnvelopeInvalid("not an event id", length=len(event_id)) from exc
