"""A Kafka topic as target, `target = "topic:NAME"`: one command event for each delivery.

The key is the event's, so that the commands for one user stay in order. A command may come twice (a crash after the
broker's ack and before the record of it), always with the same header `pgherald-delivery-id`: drop what you have seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC
from typing import Any

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from cdc.contract.envelope import HEADER_EVENT_ID
from cdc.runtime import kafka
from cdc.runtime.errors import CallRejected, DependencyDown, ServiceError
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery, digest
from consumers.events import kind_of

HEADER_DELIVERY_ID = "pgherald-delivery-id"
#: Longer than the producer itself tries.
_ACK_S = 15.0


class TopicEffect:
    """Writes commands through one producer, made when it is needed. Any number of threads may call it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = {rule.name: rule.topic for rule in settings.rules if rule.topic}
        self._producer: KafkaProducer | None = None
        self._lock = threading.Lock()

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        """Write one command, wait for the ack and give the ledger's result. Raises DependencyDown, CallRejected."""
        topic = self._topics[delivery.rule]
        identity = digest(delivery.event_id, delivery.rule, delivery.target)
        value = _command(delivery)
        # A crash after this: the lease runs out and the command is written again under the same identity.
        sending()
        try:
            written = self._write(topic, delivery, identity, value)
        except (KafkaError, ServiceError) as exc:
            raise _failure(exc, topic) from exc
        return {"identity": identity, "partition": written.partition, "offset": written.offset}

    def close(self) -> None:
        """Close the producer."""
        with self._lock:
            if self._producer is not None:
                self._producer.close(timeout=1)

    def _write(self, topic: str, delivery: Delivery, identity: str, value: bytes) -> Any:
        with self._lock:
            if self._producer is None:
                self._producer = kafka.producer(self._settings.kafka)
        headers = [(HEADER_DELIVERY_ID, identity.encode()), (HEADER_EVENT_ID, delivery.event_id.encode())]
        key = None if delivery.key is None else delivery.key.encode()
        return self._producer.send(topic, value, key, headers).get(timeout=_ACK_S)


def _command(delivery: Delivery) -> bytes:
    """Write a command: the same bytes in every attempt."""
    change = delivery.envelope
    return msgspec.json.encode(
        {
            "type": delivery.rule,
            "timestamp": delivery.committed_at.astimezone(UTC),
            "data": {
                "key": delivery.key,
                "kind": kind_of(change, delivery.event_id),
                "before": change.before,
                "after": change.after,
            },
        }
    )


def _failure(error: KafkaError | ServiceError, topic: str) -> CallRejected | DependencyDown:
    """Say what a failed write means: only a record's size is its own fault."""
    if isinstance(error, MessageSizeTooLargeError):
        hint = f"Raise max.message.bytes of {topic}, then replay"
        return CallRejected(f"the command is larger than {topic} takes", hint=hint, code="too_large")
    known = error if isinstance(error, ServiceError) else kafka.classify(error)
    return DependencyDown(f"{topic} can't be written: {known.message}", hint=known.hint, code=type(error).__name__)
