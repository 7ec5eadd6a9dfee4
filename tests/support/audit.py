"""The outside auditor: whether a topic tells the same as the table, once and in order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from cdc.contract.envelope import UNAVAILABLE
from cdc.contract.position import position_of
from tests.support.deployment import Record


class Seen(Protocol):
    """What is known of a record wherever it is audited."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def event_id(self) -> str: ...
    @property
    def op(self) -> str: ...


def repeated(records: Sequence[Seen]) -> list[str]:
    """Name the events that stand more than once; a delete and its tombstone share their id."""
    seen = Counter((record.event_id, record.op) for record in records)
    return [event_id for (event_id, _), count in seen.items() if count > 1]


def out_of_order(records: Sequence[Seen]) -> list[str]:
    """Name the events that stand behind a later one in their partition (a key never leaves its partition)."""
    faults = []
    last: dict[tuple[str, int], Any] = {}
    for record in sorted(records, key=lambda record: (record.topic, record.partition, record.offset)):
        place = (record.topic, record.partition)
        position = position_of(record.event_id)
        if place in last and position < last[place]:
            faults.append(record.event_id)
        last[place] = position
    return faults


def sequences(records: list[Record]) -> list[list[int]]:
    """Give `source.sequence` of what was streamed, in the order of the WAL: the commit before it, and its own LSN."""
    streamed = sorted((r for r in records if r.value and r.op != "r"), key=lambda r: position_of(r.event_id))
    told = [json.loads(record.value["source"]["sequence"]) for record in streamed if record.value]
    return [[int(lsn or 0) for lsn in pair] for pair in told]


def stale(records: list[Record]) -> list[str]:
    """Name the snapshot rows that tell something older than what stands before them, or that come a second time."""
    faults = []
    known: dict[str, Any] = {}
    for record in sorted(records, key=lambda record: (record.partition, record.offset)):
        if record.key is None or record.value is None:
            continue
        if record.op == "r" and _contradicts(record.value["after"], known.get(record.key)):
            faults.append(record.event_id)
        known[record.key] = record.value["after"]
    return faults


def _contradicts(row: dict[str, Any], known: dict[str, Any] | None) -> bool:
    """Tell whether a row says something else; of a value that is not available nothing is known."""
    return known is not None and row != {n: row.get(n) if value == UNAVAILABLE else value for n, value in known.items()}


def replayed(records: list[Record]) -> dict[str, dict[str, Any]]:
    """Replay a topic into the rows that it describes, by key."""
    rows: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: (record.partition, record.offset)):
        if record.key is None or record.value is None:
            continue
        if record.op == "d":
            rows.pop(record.key, None)
        else:
            rows[record.key] = record.value["after"]
    return rows
