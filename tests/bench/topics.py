"""What a `read_committed` consumer can see, and when: the bench's clock."""

from __future__ import annotations

import re
import time
from contextlib import closing
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from deploy.local.net import until

_COMMITTED_AT_US = re.compile(rb'"ts_us":(\d+)')


def reader(bootstrap: str) -> Consumer:
    """Open a consumer that joins no group, reads committed records only and asks for new ones all the time."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 1,
            "topic.metadata.refresh.interval.ms": 1000,
            "log_level": 0,
        }
    )


def wait_for(bootstrap: str, topic: str, partitions: int = 1) -> None:
    """Wait until a topic is there with its partitions."""

    def there() -> bool:
        with closing(reader(bootstrap)) as client:
            known = client.list_topics(timeout=5).topics.get(topic)
            return known is not None and known.error is None and len(known.partitions) >= partitions

    until(there, 60, f"the topic {topic}")


@dataclass
class Marks:
    """The times at which the rows of the table `mark` became visible, by their text."""

    bootstrap: str
    topic: str
    seen: dict[str, float] = field(default_factory=dict)

    def until(self, mark: str, timeout_s: float) -> float:
        """Wait for a mark; give when it was seen (monotonic seconds)."""
        with closing(reader(self.bootstrap)) as client:
            client.assign([TopicPartition(self.topic, number, 0) for number in self._partitions(client)])
            deadline = time.monotonic() + timeout_s
            while mark not in self.seen:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not within {timeout_s:g} s: the mark {mark} in {self.topic}")
                self._note(client)
        return self.seen[mark]

    def _note(self, client: Consumer) -> None:
        message = client.poll(1.0)
        if message is None:
            return
        value = message.value()
        if message.error() is None and isinstance(value, bytes):
            for mark in re.findall(rb'"after":\{"mark":"([a-z0-9]+)"', value):
                self.seen.setdefault(mark.decode(), time.monotonic())

    def _partitions(self, client: Consumer) -> list[int]:
        return list(client.list_topics(self.topic, timeout=10).topics[self.topic].partitions)


def ends(client: Consumer, topic: str) -> int:
    """Sum the ends of a topic's partitions for a `read_committed` consumer; 0 where none has a leader yet."""
    try:
        return sum(end.offset for end in at_end_of(client, topic))
    except (KafkaException, KeyError):
        return 0


def count(bootstrap: str, topic: str) -> int:
    """Read a topic to its end and count its records."""
    found = 0
    with closing(reader(bootstrap)) as client:
        partitions = list(client.list_topics(topic, timeout=10).topics[topic].partitions)
        client.assign([TopicPartition(topic, number, 0) for number in partitions])
        bounds = {end.partition: end.offset for end in at_end_of(client, topic)}
        at_end = {number for number, end in bounds.items() if end == 0}
        while len(at_end) < len(partitions):
            for message in client.consume(10_000, timeout=1.0):
                found += message.error() is None
            positions = client.position([TopicPartition(topic, number) for number in partitions])
            at_end |= {position.partition for position in positions if position.offset >= bounds[position.partition]}
    return found


def latencies_ms(client: Consumer, until_s: float, wanted: int) -> list[float]:
    """Collect, for each record that becomes visible, how long ago its row was committed."""
    found: list[float] = []
    while len(found) < wanted and time.monotonic() < until_s:
        for message in client.consume(500, timeout=0.002):
            now_us = time.time_ns() // 1000
            error, value = message.error(), message.value()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise RuntimeError(f"the meter can't read: {error.name()}")
            if isinstance(value, bytes) and (at := _COMMITTED_AT_US.search(value)):
                found.append((now_us - int(at[1])) / 1000)
    return found


def at_end_of(client: Consumer, topic: str) -> list[TopicPartition]:
    """Give a topic's partitions at their present ends."""
    partitions = client.list_topics(topic, timeout=10).topics[topic].partitions
    bounds = {number: client.get_watermark_offsets(TopicPartition(topic, number), timeout=5) for number in partitions}
    return [TopicPartition(topic, number, bound[1] if bound else 0) for number, bound in bounds.items()]
