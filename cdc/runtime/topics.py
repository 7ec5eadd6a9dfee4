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


def of_commands(settings: Settings) -> dict[str, Topic]:
    """Say what the topics that rules write to are made like, by name: the consumers need them, the reader does not."""
    names = sorted({rule.topic for rule in settings.rules if rule.topic})
    return {name: _events(settings, name) for name in names}


def _events(settings: Settings, name: str) -> Topic:
    kafka = settings.kafka
    retained = {"retention.ms": str(int(kafka.retention.total_seconds() * 1000))}
    return Topic(name, kafka.partitions, kafka.replication_factor, retained)


def wanted(settings: Settings) -> dict[str, Topic]:
    """Say what each of the reader's topics is made like, by name."""
    kafka, name = settings.kafka, settings.source.name
    # One small record a transaction: rolled and compacted often, so that a start reads little.
    compacted = {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"}
    topics = [
        *(_events(settings, topic) for topic in (*of_tables(settings), message_topic(name))),
        Topic(positions_topic(name), 1, kafka.replication_factor, compacted),
    ]
    return {topic.name: topic for topic in topics}
