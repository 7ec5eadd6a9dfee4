"""Reads a topic as an outside auditor does."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from deploy.local.net import until


def committed(bootstrap: str, topic: str) -> Iterator[Any]:
    """Give what a `read_committed` consumer sees, from the beginning to the end at this moment."""
    options = {"bootstrap_servers": bootstrap, "isolation_level": "read_committed", "enable_auto_commit": False}
    with closing(KafkaConsumer(**options, receive_message_max_bytes=104_857_600)) as client:
        # To this client a broker is without topics while its controller has not heard of it for a moment.
        numbers = until(lambda: client.partitions_for_topic(topic), 20, f"Kafka to name the partitions of {topic}")
        partitions = [TopicPartition(topic, number) for number in numbers]
        client.assign(partitions)
        client.seek_to_beginning()
        ends = client.end_offsets(partitions)
        while any(client.position(partition) < ends[partition] for partition in partitions):
            for records in client.poll(1000).values():
                yield from records
