"""What a Kafka cluster lets a principal do and see, asked through kafka-python."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.admin import ACLOperation, ConfigResource, ConfigResourceType
from kafka.protocol.find_coordinator import FindCoordinatorRequest
from kafka.protocol.metadata import MetadataRequest

from cdc.runtime import kafka
from cdc.runtime.sections import Kafka

_NONE = ACLOperation.UNKNOWN, ACLOperation.ANY
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
    """Ask by hand: the client's describe_topics() fails for all when one is hidden."""
    seen, hidden = {}, set()
    answer = client.send_request(MetadataRequest[8](names, False, False, True)).to_object()
    for topic in answer["topics"]:
        error = kafka_errors.for_code(topic["error_code"])
        if error is kafka_errors.TopicAuthorizationFailedError:
            hidden.add(topic["topic"])
        elif error is kafka_errors.NoError:
            allowed = frozenset(ACLOperation(number).name for number in topic["authorized_operations"] & _KNOWN)
            copies = min(len(partition["replicas"]) for partition in topic["partitions"])
            seen[topic["topic"]] = TopicSeen(allowed, copies)
    return seen, frozenset(hidden)


def _may_use(client: KafkaAdminClient, kind: str, name: str) -> bool:
    """Tell whether Kafka would name the coordinator of a group or transactional-id, for which it asks for a right."""
    request = FindCoordinatorRequest[1](name, int(kind == "transactional-id"))
    error = kafka_errors.for_code(client.send_request(request).error_code)
    return error not in kafka.REFUSED


def _settings(client: KafkaAdminClient, resources: list[ConfigResource]) -> dict[str, dict[str, str]]:
    if not resources:
        return {}
    described = (resource for answer in client.describe_configs(resources) for resource in answer.resources)
    return {name: {entry[0]: entry[1] for entry in entries} for error, _, _, name, entries in described if error == 0}
