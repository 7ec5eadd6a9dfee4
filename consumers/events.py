"""From a Kafka record to an event, or to the reason why it is none. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec

from cdc.contract import envelope as wire
from cdc.contract.envelope import Envelope, Row
from cdc.contract.position import START, Position, position_of
from cdc.contract.topics import table_topic
from cdc.runtime.errors import EnvelopeInvalid

#: A key change is a delete of the old key and an insert of the new one: the insert counts, as `changed`.
Kind = Literal["created", "changed", "deleted", "snapshot"]

#: Stands in the place of the LSN in the ids of events that `recover` plans.
RECOVERED = "recovery"
_EVENT_ID_MAX = 1000
#: The end of the year 9999: a record's timestamp is whatever its producer wrote.
_LAST_MS = 253_402_300_799_999
_old_key = msgspec.json.Decoder(Row)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Record(NamedTuple):
    """What we read of a Kafka record; kafka-python's own has these attributes too."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Event:
    """One row change that a rule may want."""

    id: str
    key: str | None
    kind: Kind
    position: Position
    committed_at: datetime
    envelope: Envelope
    value: bytes  #: the envelope as it came; of a key change with the old key as `before`; and what headers add
    notify: bool = True  #: false: the transaction asked for silence


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A record that is no event of ours, and why."""

    id: str
    key: str | None
    committed_at: datetime
    value: bytes
    error: EnvelopeInvalid
    position: Position = START


def read(record: Record) -> Event | Undecodable | None:
    """Read a record; None for a tombstone and for changes that no rule can name. Never raises."""
    if record.value is None:
        return None
    try:
        return _event(record, record.value, dict(record.headers))
    except EnvelopeInvalid as exc:
        return Undecodable(
            id=f"{record.topic}:{record.partition}:{record.offset}",
            key=_key_if_text(record.key),
            committed_at=_time(min(max(record.timestamp, 0), _LAST_MS)),
            value=record.value,
            error=exc,
        )


def kind_of(envelope: Envelope, event_id: str) -> Kind | None:
    """Tell what happened to the row. Event ids of a key change end in `:d` and `:c`.

    A row that was there before is history, also one that `slot recover` read again; news it is only where `recover`
    planned it, and so gave it an id that no record of Kafka's can have.
    """
    match envelope.op:
        case "c":
            return "changed" if event_id.endswith(":c") else "created"
        case "u":
            return "changed"
        case "d":
            return None if event_id.endswith(":d") else "deleted"
        case "r":
            return "created" if event_id.split(":")[2:3] == [RECOVERED] else "snapshot"
        case _:
            return None


def changed(envelope: Envelope) -> Row:
    """Give the previous values of the columns that changed; empty without the old row.

    A TOASTed value that is not in the WAL did not change.
    """
    before, after = envelope.before, envelope.after
    if before is None or after is None:
        return {}
    return {
        column: previous
        for column, previous in before.items()
        if column in after and after[column] not in (previous, wire.UNAVAILABLE)
    }


def committed_at(envelope: Envelope) -> datetime:
    """Give the time of the commit. Raises EnvelopeInvalid."""
    return _time(envelope.source.ts_ms)


def _event(record: Record, value: bytes, headers: dict[str, bytes | None]) -> Event | None:
    if headers.get(wire.HEADER_SCHEMA) != wire.SCHEMA_VERSION:
        raise EnvelopeInvalid(f"the header {wire.HEADER_SCHEMA} is missing or not {wire.SCHEMA_VERSION.decode()}")
    event_id = _event_id(headers.get(wire.HEADER_EVENT_ID))
    key = _key(record.key)
    envelope = _decode(value)
    if envelope.op == "c" and (old_key := headers.get(wire.HEADER_OLD_KEY)):
        envelope, value = _with_old_key(envelope, value, old_key)
    kind = _kind(envelope, headers)
    if kind is None:
        return None
    if kind == "deleted" and headers.get(wire.HEADER_OLD_ROW) == b"1":
        envelope = msgspec.structs.replace(envelope, old_row_whole=True)
        value = _with_member(value, "old_row_whole", b"true")
    _require_its_topic(record.topic, envelope)
    notify = headers.get(wire.HEADER_NOTIFY) != b"0"
    return Event(event_id, key, kind, _position(event_id), committed_at(envelope), envelope, value, notify)


def _require_its_topic(topic: str, envelope: Envelope) -> None:
    """Refuse an event that is in another table's topic: no rule would see it, and nobody would know."""
    if not topic.endswith(table_topic("", envelope.source.schema, envelope.source.table)):
        raise EnvelopeInvalid("the envelope is of another table than its topic")


def _kind(envelope: Envelope, headers: dict[str, bytes | None]) -> Kind | None:
    """Tell what happened by the headers: Debezium's say so even where the event id does not."""
    if envelope.op == "c":
        return "changed" if wire.HEADER_OLD_KEY in headers else "created"
    if envelope.op == "d" and wire.HEADER_NEW_KEY in headers:
        return None
    return kind_of(envelope, "")


def _event_id(header: bytes | None) -> str:
    if not header:
        raise EnvelopeInvalid(f"the header {wire.HEADER_EVENT_ID} is missing")
    text = header.decode("ascii", "replace")
    if not text.isprintable() or "\ufffd" in text or len(text) > _EVENT_ID_MAX:
        raise EnvelopeInvalid(f"the header {wire.HEADER_EVENT_ID} is no event id", length=len(header))
    return text


def _position(event_id: str) -> Position:
    position = position_of(event_id)
    if not (0 <= position.lsn < 2**64 and 0 <= position.index < 2**63):
        raise EnvelopeInvalid("not an event id: its position is out of range")
    return position


def _key(key: bytes | None) -> str | None:
    text = _key_if_text(key)
    if key is not None and text is None:
        raise EnvelopeInvalid("the key is not text", length=len(key))
    return text


def _key_if_text(key: bytes | None) -> str | None:
    try:
        text = key.decode() if key is not None else None
    except UnicodeDecodeError:
        return None
    return None if text is None or "\0" in text else text


def _decode(value: bytes) -> Envelope:
    try:
        return wire.decode(value)
    except RecursionError as exc:
        raise EnvelopeInvalid("no envelope: nested too deeply", length=len(value)) from exc


def _with_old_key(envelope: Envelope, value: bytes, old_key: bytes) -> tuple[Envelope, bytes]:
    """Put the old key where the old row would be: the header is gone when a template asks what changed."""
    try:
        before = _old_key.decode(old_key)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise EnvelopeInvalid(f"the header {wire.HEADER_OLD_KEY} is no key", length=len(old_key)) from exc
    return msgspec.structs.replace(envelope, before=before), _with_member(value, "before", old_key)


def _with_member(value: bytes, name: str, member: bytes) -> bytes:
    return msgspec.json.encode(_members.decode(value) | {name: msgspec.Raw(member)})


def _time(ts_ms: int) -> datetime:
    try:
        return datetime.fromtimestamp(ts_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError) as exc:
        raise EnvelopeInvalid("the time of the commit is out of range") from exc
