"""From a Kafka record to what the ledger keeps of it: an event with its deliveries, or a dead letter. Pure."""

from __future__ import annotations

from datetime import datetime

from cdc.runtime.sections import Rule
from consumers.delivery import Entry, Planned
from consumers.events import Event, Record, read
from consumers.outcome import describe
from consumers.rules import Rules

#: The rule of a record that is no event: no settings can have one of this name.
UNDECODABLE = "(undecodable)"
#: What its replay goes by: it is read again, once.
REREADING = Rule.model_construct(name=UNDECODABLE, attempts=3)


def lane_of_undecodable(consumer: str) -> str:
    """Name the lane of a consumer's records that are no events."""
    return f"{consumer}:{UNDECODABLE}"


def entry_of(record: Record, rules: Rules, consumer: str, now: datetime) -> Entry | None:
    """Make of a record what the ledger keeps; None when no rule wants it. Never raises."""
    found = read(record)
    if found is None:
        return None
    decoded = isinstance(found, Event)
    if isinstance(found, Event):
        planned = rules.plan(found, now)
    else:
        error = describe(found.error)
        planned = [Planned(UNDECODABLE, UNDECODABLE, lane_of_undecodable(consumer), "dead", error)]
    if not planned:
        return None
    return Entry(
        event_id=found.id,
        topic=record.topic,
        partition=record.partition,
        record_offset=record.offset,
        committed_at=found.committed_at,
        key=found.key,
        position=found.position,
        value=found.value,
        readable=decoded,
        planned=planned,
        raw_key=None if decoded else record.key,
        raw_headers=None if decoded else record.headers,
    )
