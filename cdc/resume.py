"""The last committed position, and whether it belongs to this slot. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from cdc.contract.lsn import format_lsn
from cdc.contract.position import START, Position, PositionRecord, SnapshotState, Why, Witness, event_id
from cdc.relation import Cluster
from cdc.runtime.errors import PositionMismatch, SlotLost

RECOVER = "If that is meant, `pgherald slot recover` starts a new epoch and reads again what may be missing"


def hash_of(options: Mapping[str, str]) -> str:
    """Hash the wal2json options: under others the same line has another index."""
    return hashlib.sha256(msgspec.json.encode(dict(options), order="sorted")).hexdigest()[:16]


@dataclass
class Resume:
    """Where to go on: behind `position`, with event ids of this name and epoch."""

    topic: str
    slot: str
    name: str
    state: PositionRecord
    #: The slot begins before the position's witness, so that must come by again.
    unmet: Witness | None = None

    @property
    def position(self) -> Position:
        """The last change that is in Kafka."""
        return self.state.position

    def is_new(self, position: Position) -> bool:
        """Tell whether a change is not yet in Kafka."""
        return position > self.position

    def event_id(self, position: Position) -> str:
        """Name the change at a position."""
        return event_id(self.name, self.state.epoch, position)

    def meet(self, lsn: int, committed_us: int) -> None:
        """Compare a transaction of the slot with the witness: LSNs alone come again in a restored database.

        Raises PositionMismatch when the slot passes the witness's LSN without that transaction.
        """
        if self.unmet is None or lsn < self.unmet.lsn:
            return
        if Witness(lsn, committed_us) != self.unmet:
            what = f"the slot does not hold the transaction {format_lsn(self.unmet.lsn)}, of which events are in Kafka"
            raise PositionMismatch(f"{what}: the database was restored, or the slot replaced", hint=RECOVER)
        self.unmet = None

    def record(self, state: PositionRecord) -> tuple[str, bytes, bytes]:
        """Give topic, key and value of the record that says: everything up to its position is here."""
        if state.position < self.position:
            raise PositionMismatch(f"the position would go back to {format_lsn(state.lsn)}")
        return self.topic, self.slot.encode(), msgspec.json.encode(state)

    def snapshot(self, snapshot: SnapshotState) -> tuple[str, bytes, bytes]:
        """Give the record that says how far the snapshot is; the position stays."""
        self.state = msgspec.structs.replace(self.state, snapshot=snapshot)
        return self.record(self.state)

    def at(self, position: Position, *, complete: bool, witness: Witness | None = None) -> PositionRecord:
        """Give the state with another position; it holds once its record is committed."""
        last = witness or self.state.witness
        return msgspec.structs.replace(
            self.state, lsn=position.lsn, index=position.index, complete=complete, witness=last
        )


def first_record(cluster: Cluster, options: str, epoch: int = 1, why: Why = "initial") -> PositionRecord:
    """Make the record that announces a slot before it is created: whoever finds it knows that nothing was confirmed."""
    return PositionRecord(
        system_id=cluster.system_id,
        timeline=cluster.timeline,
        epoch=epoch,
        lsn=START.lsn,
        index=START.index,
        snapshot=SnapshotState("creating", why=why),
        options=options,
    )


def check(record: PositionRecord, cluster: Cluster, options: str, *, slot_exists: bool, unparted: str = "") -> None:
    """Stop where slot and position do not belong together: going on would lose or repeat changes in silence.

    `unparted` are the options that these settings would have without a partitioned table. Raises PositionMismatch or
    SlotLost, each with what the operator decides.
    """
    if record.system_id != cluster.system_id:
        raise PositionMismatch("the position in Kafka belongs to another PostgreSQL cluster", hint=RECOVER)
    if fault := _history_fault(record, cluster):
        raise PositionMismatch(fault, hint=RECOVER)
    if not slot_exists and record.snapshot.state != "creating":
        raise SlotLost(f"the slot is gone, though it was read before{_failed_over(record, cluster)}", hint=RECOVER)
    if record.options != options and not record.complete and record.options == unparted:
        what = "a captured table became partitioned in the middle of a transaction of which a part is in Kafka"
        raise PositionMismatch(what, hint=RECOVER)
    if record.options != options and not record.complete:
        hint = "Run once with the old settings until the log says `streaming` and the backlog is read"
        changed = "source.tables or source.skip_origins"
        raise PositionMismatch(f"{changed} changed in the middle of a transaction", hint=hint)


def _history_fault(record: PositionRecord, cluster: Cluster) -> str:
    """Tell why this PostgreSQL's history does not lead through the position; empty when it does."""
    position = f"Kafka's position {format_lsn(record.lsn)} of timeline {record.timeline}"
    if record.timeline != cluster.timeline:
        left_lsn = cluster.left_lsn.get(record.timeline)
        if left_lsn is None:
            return f"PostgreSQL is on timeline {cluster.timeline}, which does not descend from {position}"
        if record.lsn > left_lsn:
            lacks = f"PostgreSQL was failed over or restored at {format_lsn(left_lsn)} and lacks changes"
            return f"{lacks} that are in Kafka: {position}"
    if record.lsn > cluster.end_lsn:
        return f"PostgreSQL's WAL ends at {format_lsn(cluster.end_lsn)}, before {position}: an older copy was restored"
    return ""


def _failed_over(record: PositionRecord, cluster: Cluster) -> str:
    if record.timeline == cluster.timeline:
        return ""
    timelines = f"timeline {record.timeline} to {cluster.timeline}"
    return f": PostgreSQL was failed over ({timelines}), and a standby has no slots"
