"""What came of rows while their table was read, told by Kafka: a reader that dies takes its own memory with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import cast

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from cdc import librdkafka, positions
from cdc.contract.envelope import HEADER_EVENT_ID
from cdc.contract.event import Event, Headers
from cdc.contract.position import Reading
from cdc.contract.topics import table_topic
from cdc.moved import Moved, Streamed
from cdc.runtime.errors import BrokerUnavailable
from cdc.runtime.settings import Settings
from cdc.watermark import Created

#: `consume` waits so long for all it is asked for, also behind the last one that there is.
_MESSAGES, _SLICE_S, _ANSWER_S = 1000, 0.05, 10.0


class _Op(msgspec.Struct):
    op: str


_op = msgspec.json.Decoder(_Op)


def streamed(settings: Settings, epoch: int, readings: Sequence[Reading], keep_alive: Callable[[], None]) -> Streamed:
    """Read back what was streamed since these tables were begun to be read beside the stream.

    Every transaction of a former reader has ended: the caller has taken the transactional id. Raises BrokerUnavailable.
    """
    name, found = settings.source.name, Streamed(Created(), Moved())
    # In the order in which they were asked for: a table that was asked for twice is to bring what was there the second
    # time, and of what moved since the first.
    asked = [(table_topic(name, r.schema, r.table), r.since_ms) for r in readings if r.since_ms]
    since, asked_last = dict(reversed(asked)), dict(asked)
    if not since:
        return found
    try:
        with closing(librdkafka.made(Consumer, positions.reader_options(settings.kafka))) as reader:
            parts = _parts(reader, since)
            for message in _messages(reader, parts, keep_alive):
                events = list(_events(message, f"{name}:{epoch}:".encode()))
                found.moved.published(events)
                if message.timestamp()[1] >= asked_last[str(message.topic())]:
                    found.created.published(events)
    except KafkaException as exc:
        raise librdkafka.classify(exc.args[0]) from exc
    return found


def _parts(reader: Consumer, since: dict[str, int]) -> list[TopicPartition]:
    """Find where to begin; what the principal may not read is left out, and its rows come as `r` too.

    Nothing else is: while one of several brokers is away, only its partitions say so.
    """
    known = reader.list_topics(timeout=_ANSWER_S).topics
    parts = [
        TopicPartition(topic, number, since_ms)
        for topic, since_ms in since.items()
        if topic in known
        for number in known[topic].partitions
    ]
    found = reader.offsets_for_times(parts, timeout=_ANSWER_S)
    for part in found:
        if part.error is not None and part.error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise librdkafka.classify(part.error)
    return [part for part in found if part.error is None]


def _messages(reader: Consumer, parts: list[TopicPartition], keep_alive: Callable[[], None]) -> Iterator[Message]:
    """Read the topics to their ends."""
    reader.assign(parts)
    left, heard_at = {(part.topic, part.partition) for part in parts}, time.monotonic()
    while left:
        keep_alive()
        messages = reader.consume(_MESSAGES, _SLICE_S)
        if not messages and time.monotonic() - heard_at > _ANSWER_S:
            raise BrokerUnavailable("the tables' topics can't be read to their ends")
        heard_at = time.monotonic() if messages else heard_at
        for message in messages:
            error = message.error()
            if error is None:
                yield message
            elif error.code() in (KafkaError._PARTITION_EOF, KafkaError.TOPIC_AUTHORIZATION_FAILED):
                left.discard((str(message.topic()), message.partition()))
            elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:  # the group is only named
                raise librdkafka.classify(error)


def _events(message: Message, ids: bytes) -> Iterator[Event]:
    """Give the event of a record if it is of this epoch: `ids` is how its ids begin."""
    headers, value = cast(Headers, message.headers() or []), message.value()
    id_ = dict(headers).get(HEADER_EVENT_ID, b"")
    if isinstance(value, bytes) and id_.startswith(ids):
        topic, key = message.topic() or "", message.key()
        op = "r" if id_.startswith(ids + b"snapshot:") else _op.decode(value).op
        yield Event(topic, key if isinstance(key, bytes) else None, value, headers, "", op)
