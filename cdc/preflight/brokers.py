"""What preflight says of the Kafka cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from cdc.runtime import kafka, topics
from cdc.runtime.findings import Finding
from cdc.runtime.settings import Settings


def brokers(settings: Settings) -> Iterator[Finding]:
    """Look at the Kafka cluster."""
    with closing(kafka.admin(settings.kafka)) as client, kafka.errors():
        count = len(client.describe_cluster()["brokers"])
        there = set(client.list_topics())
    yield Finding("ok", f"Kafka answers with {count} brokers")
    if count < settings.kafka.replication_factor:
        why = f"kafka.replication_factor is {settings.kafka.replication_factor}"
        yield Finding("fault", f"Kafka has {count} brokers", why, "lower it, or start more brokers")
    if settings.kafka.replication_factor == 1 and count > 1:
        remedy = "set kafka.replication_factor = 3 before the topics are made"
        yield Finding("warning", "topics have one copy only", "a lost disk loses events", remedy)
    missing = sorted(set(topics.wanted(settings) | topics.of_commands(settings)) - there)
    if missing and not settings.kafka.create_topics:
        why = "kafka.create_topics is false, so pgherald makes none"
        yield Finding("fault", f"topics are missing: {', '.join(missing)}", why, _create_topics(settings, missing))
    elif missing:
        yield Finding("ok", f"topics that the first start makes: {', '.join(missing)}")
    else:
        yield Finding("ok", "every topic is there")


def _create_topics(settings: Settings, missing: list[str]) -> str:
    wanted = topics.wanted(settings) | topics.of_commands(settings)
    server = settings.kafka.bootstrap_servers.split(",")[0]
    commands = []
    for topic in missing:
        new = wanted[topic]
        configs = " ".join(f"--config {key}={value}" for key, value in new.configs.items())
        commands.append(
            f"kafka-topics.sh --bootstrap-server {server} --create --topic {topic} "
            f"--partitions {new.partitions} --replication-factor {new.replication_factor} {configs}"
        )
    return "; ".join(commands)
