"""What a Kafka cluster lets a principal do and see, asked through kafka-python."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.admin import ACLOperation, ConfigResource, ConfigResourceType
from kafka.protocol.admin import DescribeGroupsRequest
from kafka.protocol.find_coordinator import FindCoordinatorRequest
from kafka.protocol.init_producer_id import InitProducerIdRequest

from cdc.runtime import kafka
from cdc.runtime.errors import BrokerUnavailable
from cdc.runtime.hints import ASK_AGAIN
from cdc.runtime.sections import Kafka

_NONE = ACLOperation.UNKNOWN, ACLOperation.ANY
_NO_TIMEOUT_MS = 0
_KNOWN = {operation.value for operation in ACLOperation if operation not in _NONE}


@dataclass(frozen=True, slots=True)
class TopicSeen:
    """A topic that is there, for this principal."""

    #: Names of operations that it may do, as READ.
    allowed: frozenset[str]
    #: Of the partition that has the fewest.
    copies: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A cluster, as a principal sees it."""

    brokers: int
    topics: dict[str, TopicSeen]
    #: Topics that may be there or not: the principal may not even know.
    hidden: frozenset[str]
    #: (group or transactional-id, name) of what the principal may not use.
    refused: frozenset[tuple[str, str]]
    #: A broker's settings, and those of topics; empty or left out where the principal may not see them.
    broker_settings: dict[str, str]
    topic_settings: dict[str, dict[str, str]]


def look(kafka_settings: Kafka, names: Iterable[str], used: Iterable[tuple[str, str]]) -> Seen:
    """Look at topics, and at the groups and transactional-ids that are used. Raises BrokerUnavailable, AccessDenied."""
    with closing(kafka.admin(kafka_settings)) as client, kafka.errors():
        brokers = client.describe_cluster()["brokers"]
        if not brokers:
            raise BrokerUnavailable("Kafka names no broker: its controller has not heard of one lately", hint=ASK_AGAIN)
        seen, hidden = _topics(client, list(names))
        first = ConfigResource(ConfigResourceType.BROKER, str(brokers[0]["node_id"]))
        of_broker = _settings(client, [first])
        of_topics = _settings(client, [ConfigResource(ConfigResourceType.TOPIC, name) for name in seen])
        refused = frozenset(place for place in used if not _may_use(client, *place))
    return Seen(len(brokers), seen, hidden, refused, next(iter(of_broker.values()), {}), of_topics)


def hidden(kafka_settings: Kafka, names: Iterable[str]) -> frozenset[str]:
    """Tell which topics the principal may not know of, whether they are there or not."""
    with closing(kafka.admin(kafka_settings)) as client, kafka.errors():
        return _topics(client, list(names))[1]


def _topics(client: KafkaAdminClient, names: list[str]) -> tuple[dict[str, TopicSeen], frozenset[str]]:
    seen, hidden = {}, set()
    for error, topic in kafka.described(client, names):
        if error is kafka_errors.TopicAuthorizationFailedError:
            hidden.add(topic["topic"])
        elif error is kafka_errors.NoError:
            allowed = frozenset(ACLOperation(number).name for number in topic["authorized_operations"] & _KNOWN)
            copies = min(len(partition["replicas"]) for partition in topic["partitions"])
            seen[topic["topic"]] = TopicSeen(allowed, copies)
    return seen, frozenset(hidden)


def _may_use(client: KafkaAdminClient, kind: str, name: str) -> bool:
    """Tell whether the principal may join a group, or write under a transactional id."""
    return _may_join(client, name) if kind == "group" else _may_write(client, name)


def _may_join(client: KafkaAdminClient, group: str) -> bool:
    """Ask what is allowed on a group, which need not be there; a broker names its coordinator to whom it may."""
    found = client.send_request(FindCoordinatorRequest[1](group, 0))
    if kafka_errors.for_code(found.error_code) in kafka.REFUSED:
        return False
    if found.error_code:  # none is elected yet: nothing can be asked
        return True
    (answer,) = client.send_request(DescribeGroupsRequest[3]([group], True), found.coordinator_id).groups
    error, *_, allowed = answer
    return ACLOperation.READ.value in allowed if not error else kafka_errors.for_code(error) not in kafka.REFUSED


def _may_write(client: KafkaAdminClient, transactional_id: str) -> bool:
    """Ask for a producer id with a timeout that is none.

    Kafka looks at the right to write first and at the timeout next, and then refuses it: nobody is fenced.
    """
    answer = client.send_request(InitProducerIdRequest[1](transactional_id, _NO_TIMEOUT_MS))
    return kafka_errors.for_code(answer.error_code) not in kafka.REFUSED


def _settings(client: KafkaAdminClient, resources: list[ConfigResource]) -> dict[str, dict[str, str]]:
    if not resources:
        return {}
    described = (resource for answer in client.describe_configs(resources) for resource in answer.resources)
    return {name: {entry[0]: entry[1] for entry in entries} for error, _, _, name, entries in described if error == 0}
