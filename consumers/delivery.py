"""What the ledger holds: planned deliveries, claimed ones and the transitions that they make. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cdc.contract.envelope import Envelope
from cdc.contract.position import Position
from cdc.runtime.errors import EnvelopeInvalid
from consumers.outcome import Dead, Error, GivenBack, Outcome, Pause, Retry, Sent, Skipped, Unknown


def digest(event_id: str, rule: str, target: str) -> str:
    """Hash a delivery's identity: the same in every attempt, and no key or address can be read from it."""
    return hashlib.sha256("\0".join((event_id, rule, target)).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Planned:
    """One rule's one target for an event: what `store` makes a delivery of."""

    rule: str
    target: str
    lane: str
    state: str = "pending"  #: or skipped, dead: finished when it is born, with an error
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as the ledger keeps it, with its deliveries."""

    event_id: str
    topic: str
    partition: int
    record_offset: int
    committed_at: datetime
    key: str | None
    position: Position
    value: bytes
    readable: bool
    planned: Sequence[Planned]
    #: Of a record that does not decode, all of it.
    raw_key: bytes | None = None
    raw_headers: Sequence[tuple[str, bytes | None]] | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed delivery, with the event it is about."""

    id: int
    consumer: str
    event_id: str
    rule: str
    target: str
    lane: str
    key: str | None  #: the Kafka key as text; None where the table has no key
    attempt: int  #: attempts begun, this one included
    replays: int
    created_at: datetime
    committed_at: datetime
    envelope: Envelope
    lane_failures: int = 0  #: of its lane when it was claimed; above 0 it is the lane's probe
    failing_since: datetime | None = None  #: when the first attempt that counts failed
    in_doubt: bool = False  #: a final dot of an earlier attempt had no answer
    unreadable: EnvelopeInvalid | None = None  #: why there is no envelope to speak of


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery whose lease ran out."""

    id: int
    rule: str
    lane: str
    key: str | None
    state: str
    attempt: int
    leased_by: str
    in_doubt: bool = False  #: as a Delivery's
    lane_failures: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A transition of a delivery: to what became of it."""

    delivery: Delivery | Leased
    outcome: Outcome
    worker: str
    expired: bool = False  #: true only if the lease has really run out

    @property
    def state(self) -> str:
        """The state that the delivery gets."""
        match self.outcome:
            case Sent():
                return "sent"
            case Skipped():
                return "skipped"
            case Dead():
                return "dead"
            case Unknown():
                return "unknown"
            case Retry() | Pause() | GivenBack():
                return "pending"

    @property
    def finishes(self) -> bool:
        """Whether the next of the queue may come."""
        return isinstance(self.outcome, Sent | Skipped | Dead | Unknown)
