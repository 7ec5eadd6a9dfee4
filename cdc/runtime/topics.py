"""What the topics of a deployment are made like. Pure; both Kafka clients create them by it."""

from __future__ import annotations

from dataclasses import dataclass

from cdc.contract.topics import message_topic, positions_topic, table_topic
from cdc.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is to be made."""

    name: str
    partitions: int
    replication_factor: int
    configs: dict[str, str]


def of_tables(settings: Settings) -> list[str]:
    """Name the topics of the captured tables."""
    return [table_topic(settings.source.name, *table.name) for table in settings.source.tables]


def wanted(settings: Settings) -> dict[str, Topic]:
    """Say what each topic is made like, by name."""
    kafka, name = settings.kafka, settings.source.name
    retained = {"retention.ms": str(int(kafka.retention.total_seconds() * 1000))}
    # One small record a transaction: rolled and compacted often, so that a start reads little.
    compacted = {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"}
    topics = [
        *(Topic(topic, kafka.partitions, kafka.replication_factor, retained) for topic in of_tables(settings)),
        Topic(message_topic(name), kafka.partitions, kafka.replication_factor, retained),
        Topic(positions_topic(name), 1, kafka.replication_factor, compacted),
    ]
    return {topic.name: topic for topic in topics}
