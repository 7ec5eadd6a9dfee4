"""Between what the loops speak of and the rows of the ledger's queries: columns in, deliveries out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgspec

from cdc.contract.envelope import Envelope, Source, decode
from cdc.contract.lsn import format_lsn
from cdc.runtime.errors import EnvelopeInvalid
from consumers.delivery import Delivery, Entry, Mark, Planned
from consumers.events import Record
from consumers.outcome import GivenBack, Pause

#: A lane and a key.
Queue = tuple[str, str | None]

#: What `claim` gives first; then come the envelope and the raw bytes.
FACTS = [field.name for field in fields(Delivery) if field.name not in ("envelope", "unreadable")]
#: Stands where an envelope can't be read; `unreadable` says why.
_NO_ENVELOPE = Envelope("c", Source("", 0, "", ""))

_headers = msgspec.json.Decoder(list[tuple[str, bytes | None]])


def of_queues(queues: Sequence[Queue]) -> dict[str, object]:
    """Give queues as parallel lists, for unnest."""
    return {"lanes": [lane for lane, _ in queues], "keys": [key for _, key in queues]}


def queues_of(marks: Sequence[Mark]) -> list[Queue]:
    """List the queues of marks, each once."""
    return list({(mark.delivery.lane, mark.delivery.key): None for mark in marks})


def of_events(entries: Sequence[tuple[Entry, bool]]) -> dict[str, object]:
    """Give events as parallel lists; of each whether its value goes in as JSON."""
    return {
        "event_ids": [entry.event_id for entry, _ in entries],
        "topics": [entry.topic for entry, _ in entries],
        "partitions": [entry.partition for entry, _ in entries],
        "offsets": [entry.record_offset for entry, _ in entries],
        "committed": [entry.committed_at for entry, _ in entries],
        "envelopes": [entry.value.decode() if as_json else None for entry, as_json in entries],
        "raws": [None if as_json else entry.value for entry, as_json in entries],
        "raw_keys": [entry.raw_key for entry, _ in entries],
        "raw_headers": [_header_json(entry) for entry, _ in entries],
    }


def _header_json(entry: Entry) -> str | None:
    """Write headers as JSON: a name may be any text but a NUL, which no jsonb holds; values are bytes, so base64."""
    if entry.raw_headers is None:
        return None
    return msgspec.json.encode([(_fit(name), value) for name, value in entry.raw_headers]).decode()


def record(row: Sequence[Any]) -> Record:
    """Read a record as Kafka gave it."""
    topic, partition, offset, committed_at, key, raw, headers = row
    known = _headers.decode(headers) if headers else []
    stamp_ms = int(committed_at.timestamp() * 1000)
    return Record(topic, partition, offset, stamp_ms, None if key is None else bytes(key), bytes(raw), known)


def of_planned(rows: Sequence[tuple[Entry, Planned]]) -> dict[str, object]:
    """Give planned deliveries as parallel lists."""
    return {
        "event_ids": [entry.event_id for entry, _ in rows],
        "rules": [planned.rule for _, planned in rows],
        "targets": [planned.target for _, planned in rows],
        "lanes": [planned.lane for _, planned in rows],
        "keys": [entry.key for entry, _ in rows],
        "lsns": [format_lsn(entry.position.lsn) for entry, _ in rows],
        "indexes": [entry.position.index for entry, _ in rows],
        "states": [planned.state for _, planned in rows],
        "errors": [_json(planned.error) for _, planned in rows],
    }


def of_marks(marks: Sequence[Mark]) -> dict[str, object]:
    """Give transitions as parallel lists."""
    outcomes = [mark.outcome for mark in marks]
    return {
        "ids": [mark.delivery.id for mark in marks],
        "workers": [mark.worker for mark in marks],
        "states": [mark.state for mark in marks],
        "afters": [float(getattr(outcome, "after_s", 0.0)) for outcome in outcomes],
        "given_back": [isinstance(outcome, Pause | GivenBack) for outcome in outcomes],
        "results": [_json(getattr(outcome, "result", None)) for outcome in outcomes],
        "errors": [_json(getattr(outcome, "error", None)) for outcome in outcomes],
        "expired": [mark.expired for mark in marks],
    }


def _json(facts: Mapping[str, object] | None) -> str | None:
    """Write facts as JSON that jsonb takes: another server's reply may hold NUL or half a character."""
    if facts is None:
        return None
    fit = {name: _fit(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
    return msgspec.json.encode(fit, enc_hook=str).decode()


def _fit(text: str) -> str:
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")


def delivery(row: Sequence[Any]) -> Delivery:
    """Read a claimed row; an envelope that can't be read is the delivery's fault, not its neighbours'."""
    *facts, envelope, raw = row
    known = dict(zip(FACTS, facts, strict=True))
    try:
        return Delivery(**known, envelope=_envelope(envelope, raw))
    except EnvelopeInvalid as exc:
        return Delivery(**known, envelope=_NO_ENVELOPE, unreadable=exc)


def _envelope(envelope: str | None, raw: memoryview | None) -> Envelope:
    if envelope is None and raw is None:
        raise EnvelopeInvalid("the event is no longer in the ledger", hint="Payloads leave after ledger.retention_days")
    return decode(envelope.encode() if envelope is not None else bytes(raw or b""))
