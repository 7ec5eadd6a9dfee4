"""What reader and consumers need to be allowed in Kafka, and the commands that allow it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdc.contract.topics import group_id, positions_topic, table_topic
from cdc.runtime import topics
from cdc.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Acl:
    """Operations on one resource; Read and Write include Describe."""

    #: As kafka-acls.sh calls it: topic, group or transactional-id.
    kind: str
    name: str
    operations: tuple[str, ...]

    def command(self, settings: Settings) -> str:
        """Write the command that allows it."""
        operations = " ".join(f"--operation {operation}" for operation in self.operations)
        what = f"--allow-principal {principal(settings)} {operations} --{self.kind} {self.name}"
        return f"kafka-acls.sh --bootstrap-server {server(settings)} --add {what}"

    def __str__(self) -> str:
        return f"{' and '.join(self.operations)} on {self.kind} {self.name}"


def needed(settings: Settings) -> list[Acl]:
    """List what one principal needs that runs the reader and every consumer."""
    operations: dict[tuple[str, str], dict[str, None]] = {}
    for acl in (*_reader(settings), *_consumers(settings)):
        operations.setdefault((acl.kind, acl.name), {}).update(dict.fromkeys(acl.operations))
    return [Acl(kind, name, tuple(given)) for (kind, name), given in operations.items()]


def _reader(settings: Settings) -> Iterator[Acl]:
    positions = positions_topic(settings.source.name)
    for name in sorted(topics.wanted(settings)):
        yield Acl("topic", name, ("Write", "Read") if name == positions else ("Write",))
        yield from _creation(settings, name)
    yield Acl("transactional-id", settings.transactional_id, ("Write",))


def _consumers(settings: Settings) -> Iterator[Acl]:
    for table in dict.fromkeys(settings.table_of(rule) for rule in settings.rules):
        yield Acl("topic", table_topic(settings.source.name, *table), ("Read",))
    for name in topics.of_commands(settings):
        yield Acl("topic", name, ("Write",))
        yield from _creation(settings, name)
    for consumer in sorted({rule.consumer for rule in settings.rules}):
        yield Acl("group", group_id(settings.source.name, consumer), ("Read",))


def _creation(settings: Settings, name: str) -> Iterator[Acl]:
    if settings.kafka.create_topics:
        yield Acl("topic", name, ("Create",))


def principal(settings: Settings) -> str:
    """Name the principal as Kafka does; what it makes of a certificate is the brokers' to say."""
    return f"User:{settings.kafka.sasl_username if settings.kafka.sasl_mechanism else 'PRINCIPAL'}"


def server(settings: Settings) -> str:
    """Name the server that commands are sent to."""
    return settings.kafka.bootstrap_servers.split(",")[0]


def create_topic(settings: Settings, name: str) -> str:
    """Write the command that creates a topic as pgherald would."""
    new = (topics.wanted(settings) | topics.of_commands(settings))[name]
    configs = " ".join(f"--config {key}={value}" for key, value in new.configs.items())
    return (
        f"kafka-topics.sh --bootstrap-server {server(settings)} --create --topic {name} "
        f"--partitions {new.partitions} --replication-factor {new.replication_factor} {configs}"
    )
