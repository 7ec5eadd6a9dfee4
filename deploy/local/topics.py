"""Reads a topic as an outside auditor does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from deploy.local.net import until


@dataclass(frozen=True, slots=True)
class Committed:
    """A record that a `read_committed` consumer sees."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def committed(bootstrap: str, topic: str) -> Iterator[Committed]:
    """Give what is committed in a topic, from the beginning until each partition came to an end, those mixed.

    With librdkafka, which waits for a broker that takes some seconds to answer. Raises TimeoutError where the topic is
    not there, KafkaException where it can't be read.
    """
    options = {
        "bootstrap.servers": bootstrap,
        "group.id": "audit",  # asked for by librdkafka; no group is joined, nothing is committed
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 10,
        "log_level": 0,
    }
    with closing(Consumer(options)) as client:
        unread = until(lambda: _partitions(client, topic), 30, f"the topic {topic}", ignore=(KafkaException,))
        client.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unread])
        while unread:
            for message in client.consume(1000, timeout=0.05):  # it waits for all, also where fewer are left
                error = message.error()
                if error is None:
                    yield _record(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition() or 0)
                else:
                    raise KafkaException(error)


def _partitions(client: Consumer, topic: str) -> set[int]:
    there = client.list_topics(timeout=10).topics.get(topic)
    return set(there.partitions) if there else set()


def _record(message: Message) -> Committed:
    return Committed(
        message.topic(),  # type: ignore[arg-type]  # their types allow for the None of a message that is an error
        message.partition(),  # type: ignore[arg-type]
        message.offset(),  # type: ignore[arg-type]
        message.key(),
        message.value(),
        message.headers() or [],  # type: ignore[arg-type]
    )
