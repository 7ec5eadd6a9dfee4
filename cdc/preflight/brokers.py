"""What preflight says of the Kafka cluster: brokers, topics, and what the principal may do there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from cdc.preflight import acls, durability
from cdc.preflight.acls import Acl
from cdc.publisher import TRANSACTION_TIMEOUT_S
from cdc.runtime import cluster, kafka, topics
from cdc.runtime.cluster import Seen
from cdc.runtime.findings import Finding
from cdc.runtime.settings import Settings


def brokers(settings: Settings) -> Iterator[Finding]:
    """Look at the Kafka cluster, as the principal of the settings."""
    used = [(acl.kind, acl.name) for acl in acls.needed(settings) if acl.kind != "topic"]
    seen = cluster.look(settings.kafka, sorted(topics.wanted(settings) | topics.of_commands(settings)), used)
    yield Finding("ok", f"Kafka answers; brokers: {seen.brokers}")
    yield from _topics(settings, seen)
    yield from _rights(settings, seen)
    yield from durability.look(settings, seen, TRANSACTION_TIMEOUT_S)


def _topics(settings: Settings, seen: Seen) -> Iterator[Finding]:
    names = sorted({*topics.wanted(settings), *topics.of_commands(settings)} - set(seen.topics))
    if not names:
        yield Finding("ok", "every topic is there")
    elif settings.kafka.create_topics:
        yield Finding("ok", f"topics that the first start makes: {', '.join(names)}")
    else:
        what = f"topics are missing{' or hidden' if seen.hidden else ''}: {', '.join(names)}"
        why = "kafka.create_topics is false, so pgherald makes none"
        remedy = "; ".join(acls.create_topic(settings, name) for name in names)
        yield Finding("fault", what, why, remedy, partial(kafka.create_topics, settings, names))


def _rights(settings: Settings, seen: Seen) -> Iterator[Finding]:
    lacking = [acl for acl in acls.needed(settings) if not _is_allowed(acl, seen)]
    if not lacking:
        yield Finding("ok", "the principal may do all that reader and consumers do")
        return
    what = f"{acls.principal(settings)} lacks {', '.join(map(str, lacking))}"
    why = "Kafka would refuse the reader or a consumer"
    yield Finding("fault", what, why, "; ".join(acl.command(settings) for acl in lacking))


def _is_allowed(acl: Acl, seen: Seen) -> bool:
    """Compare with what Kafka allows; of a topic that is known not to be there, nothing can be asked."""
    if acl.kind != "topic":
        return (acl.kind, acl.name) not in seen.refused
    if acl.name in seen.topics:
        needed = {operation.upper() for operation in acl.operations} - {"CREATE"}  # it is there
        return needed <= seen.topics[acl.name].allowed
    return acl.name not in seen.hidden
