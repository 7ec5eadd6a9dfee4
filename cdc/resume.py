"""The last committed position, and whether it belongs to this slot. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from cdc.contract.position import START, Position, PositionRecord, SnapshotState, event_id, format_lsn
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

    def record(self, position: Position, *, complete: bool) -> tuple[str, bytes, bytes]:
        """Give topic, key and value of the record that says: everything up to `position` is here."""
        if position < self.position:
            raise PositionMismatch(f"the position would go back to {format_lsn(position.lsn)}")
        value = msgspec.json.encode(self._at(position, complete))
        return self.topic, self.slot.encode(), value

    def advance(self, position: Position, *, complete: bool) -> None:
        """Note that the record of this position is committed."""
        self.state = self._at(position, complete)

    def snapshot(self, snapshot: SnapshotState) -> tuple[str, bytes, bytes]:
        """Give the record that says how far the snapshot is; the position stays."""
        self.state = msgspec.structs.replace(self.state, snapshot=snapshot)
        return self.record(self.position, complete=self.state.complete)

    def _at(self, position: Position, complete: bool) -> PositionRecord:
        return msgspec.structs.replace(self.state, lsn=position.lsn, index=position.index, complete=complete)


def first_record(cluster: Cluster, options: str, epoch: int = 1) -> PositionRecord:
    """Make the record that announces a slot before it is created: whoever finds it knows that nothing was confirmed."""
    return PositionRecord(
        system_id=cluster.system_id,
        timeline=cluster.timeline,
        epoch=epoch,
        lsn=START.lsn,
        index=START.index,
        snapshot=SnapshotState("creating"),
        options=options,
    )


def check(record: PositionRecord, cluster: Cluster, options: str, *, slot_exists: bool) -> None:
    """Stop where slot and position do not belong together: going on would lose or repeat changes in silence.

    Raises PositionMismatch or SlotLost, each with what the operator decides.
    """
    if record.system_id != cluster.system_id:
        raise PositionMismatch("the position in Kafka belongs to another PostgreSQL cluster", hint=RECOVER)
    if record.timeline > cluster.timeline:
        raise PositionMismatch("PostgreSQL was restored to an older timeline than the position's", hint=RECOVER)
    if not slot_exists and record.snapshot.state != "creating":
        raise SlotLost("the slot is gone, though it was read before", hint=RECOVER)
    if record.options != options and not record.complete:
        hint = "Run once with the old source.tables until the log says `streaming` and the backlog is read"
        raise PositionMismatch("source.tables changed in the middle of a transaction", hint=hint)
