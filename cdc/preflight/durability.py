"""What preflight says of the brokers' and topics' settings: copies, transactions, sizes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cdc.contract.topics import positions_topic
from cdc.preflight.acls import server
from cdc.runtime.cluster import Seen
from cdc.runtime.findings import Finding
from cdc.runtime.settings import Settings

#: Kafka's default; it takes a record of 1 MB.
_USUAL_BYTES = 1_048_588
_HOUR_MS = 3_600_000


def look(settings: Settings, seen: Seen, transaction_timeout_s: int) -> Iterator[Finding]:
    """Judge what the principal can see; settings that are hidden from it are taken for good."""
    yield from _copies(settings, seen)
    yield from _transactions(seen.broker_settings, transaction_timeout_s * 1000)
    for name, topic in seen.topics.items():
        configs = seen.topic_settings.get(name, {})
        yield from _writable(settings, name, topic.copies, configs)
        if name == positions_topic(settings.source.name) and "compact" not in configs.get("cleanup.policy", "compact"):
            why = "the position would be deleted with time, and the reader would not start"
            yield Finding("fault", f"{name} is not compacted", why, _alter(settings, name, "cleanup.policy=compact"))
        if int(configs.get("max.message.bytes", _USUAL_BYTES)) < _USUAL_BYTES:
            what = f"{name} takes records of {configs['max.message.bytes']} bytes at most"
            yield Finding(
                "warning", what, "a wider row stops the reader", _alter(settings, name, "max.message.bytes=1048588")
            )


def _copies(settings: Settings, seen: Seen) -> Iterator[Finding]:
    copies = settings.kafka.replication_factor
    there = max((topic.copies for topic in seen.topics.values()), default=0)
    if seen.brokers < there:
        what = f"Kafka names {seen.brokers} brokers, and topics have {there} copies"
        why = "a broker is away: nothing is lost, but no topic can be made, and with one more away writes may wait"
        yield Finding("warning", what, why, "start it, or ask again when it is back")
    elif seen.brokers < copies:
        why = f"kafka.replication_factor is {copies}"
        yield Finding("fault", f"Kafka has too few brokers: {seen.brokers}", why, "lower it, or start more brokers")
    if copies == 1 and seen.brokers > 1:
        remedy = "set kafka.replication_factor = 3 before the topics are made"
        yield Finding("warning", "topics have one copy only", "a lost disk loses events", remedy)
    least = int(seen.broker_settings.get("min.insync.replicas", 1))
    if least > copies:
        what = f"the brokers' min.insync.replicas is {least}, and kafka.replication_factor {copies}"
        why = "every write to a topic that pgherald makes would be refused"
        yield Finding("fault", what, why, f"set kafka.replication_factor = {least + 1} before the topics are made")


def _transactions(broker: Mapping[str, str], needed_ms: int) -> Iterator[Finding]:
    longest_ms = int(broker.get("transaction.max.timeout.ms", needed_ms))
    if longest_ms < needed_ms:
        why = f"the reader asks for {needed_ms}, and is refused"
        remedy = f"set transaction.max.timeout.ms = {needed_ms} on every broker"
        yield Finding("fault", f"transaction.max.timeout.ms is {longest_ms}", why, remedy)
    expires_ms = int(broker.get("transactional.id.expiration.ms", _HOUR_MS))
    if expires_ms < _HOUR_MS:
        why = "a reader that has nothing to publish for so long begins its session anew each time"
        remedy = "set transactional.id.expiration.ms = 604800000 on every broker"
        yield Finding("warning", f"transactional.id.expiration.ms is {expires_ms}", why, remedy)


def _writable(settings: Settings, name: str, copies: int, configs: Mapping[str, str]) -> Iterator[Finding]:
    least = int(configs.get("min.insync.replicas", 1))
    if least > copies:
        what = f"{name} has {copies} copies, and min.insync.replicas = {least}"
        remedy = _alter(settings, name, f"min.insync.replicas={max(1, copies - 1)}")
        yield Finding("fault", what, "every write is refused: there are never enough copies", remedy)
    elif least == copies > 1:
        what = f"{name} has {copies} copies, and min.insync.replicas = {least}"
        remedy = _alter(settings, name, f"min.insync.replicas={copies - 1}")
        yield Finding("warning", what, "while one broker is away, every write waits", remedy)
    elif least == 1 and copies > 2:
        why = "what one broker alone has acknowledged is lost with its disk"
        remedy = _alter(settings, name, "min.insync.replicas=2")
        yield Finding("warning", f"{name} has {copies} copies, and min.insync.replicas = 1", why, remedy)


def _alter(settings: Settings, name: str, setting: str) -> str:
    return f"kafka-configs.sh --bootstrap-server {server(settings)} --alter --topic {name} --add-config {setting}"
