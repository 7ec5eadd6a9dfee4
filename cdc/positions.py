"""The reader's side of the positions topic: the topics are there, and the slot's last committed record is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import closing
from typing import Any, TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from cdc import librdkafka
from cdc.contract.position import PositionRecord, decode_record
from cdc.contract.topics import positions_topic
from cdc.runtime import topics
from cdc.runtime.errors import BrokerUnavailable
from cdc.runtime.log import get_logger
from cdc.runtime.sections import Kafka
from cdc.runtime.settings import Settings

_log = get_logger("positions")
T = TypeVar("T")

_ANSWER_S = 10.0
_SLICE_S = 1.0
#: What is said of a partition that nobody leads yet: a topic made just now is known before it can be read, and a broker
#: that its controller has not heard of for a moment leads nothing. Or another one leads it than we know, or does only
#: so since now and can't say yet. The last one is librdkafka's own word. Java's clients ask again for the same ones.
_NO_LEADER_YET = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError._NOENT,
)
_ASK_AGAIN_S = 0.05
#: How far from the end the slot's last record is looked for first; transaction markers count too.
_TAIL_RECORDS = 200


def ensure_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing, where settings allow it; name those that stay missing.

    Several processes may do so at once. Existing topics are left as they are. Raises BrokerUnavailable, AccessDenied.
    """
    admin = _Admin(settings.kafka)
    there = admin.asked(admin.topics)
    wanted = topics.wanted(settings)
    missing = sorted(set(wanted) - set(there))
    if not missing or not settings.kafka.create_topics:
        return missing
    new = [
        NewTopic(topic.name, topic.partitions, topic.replication_factor, config=topic.configs)
        for topic in (wanted[name] for name in missing)
    ]
    for created in admin.client.create_topics(new, operation_timeout=_ANSWER_S, request_timeout=_ANSWER_S).values():
        admin.asked(created.result, passes=KafkaError.TOPIC_ALREADY_EXISTS)
    return []


class _Admin:
    """An admin client that knows why a broker turned us away: the call that waits only says that it timed out."""

    def __init__(self, kafka: Kafka) -> None:
        # Not of self: client and callback would hold each other until Python looks for such circles.
        refusals: list[KafkaError] = []

        def keep(error: KafkaError) -> None:
            if librdkafka.refuses(error):
                refusals.append(error)

        self._refusals = refusals
        self.client = librdkafka.made(AdminClient, librdkafka.options(kafka) | {"error_cb": keep})

    def topics(self) -> Collection[str]:
        """Name the topics that there are, for us; ask in slices, so that a refusal, or silence, is heard of soon."""
        deadline_s, told = time.monotonic() + _ANSWER_S, False
        while True:
            try:
                return self._seen()
            except KafkaException as exc:
                self.client.poll(0)
                if self._refusals or time.monotonic() > deadline_s:
                    raise
                if not told:
                    _log.warning("kafka_unreachable", error=exc.args[0].name())
                told = True
                time.sleep(_ASK_AGAIN_S)

    def _seen(self) -> Collection[str]:
        """Look at the cluster. One that names no broker has fenced them all.

        Whatever else is asked of it then waits for as long as it may: librdkafka does not look again by itself.
        """
        seen = self.client.list_topics(timeout=_SLICE_S)
        if not seen.brokers:
            raise KafkaException(KafkaError(KafkaError.BROKER_NOT_AVAILABLE))
        return seen.topics

    def asked(self, ask: Callable[[], T], passes: int | None = None) -> T:
        """Ask, and tell a refusal from an answer that may still come."""
        try:
            return ask()
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() == passes:
                return None  # type: ignore[return-value]
            self.client.poll(0)  # errors are told only here
            raise librdkafka.classify(self._refusals[0] if self._refusals else error) from exc


def last_record(settings: Settings) -> PositionRecord | None:
    """Read the slot's newest committed record: from the end of the topic, then further back if need be.

    Raises BrokerUnavailable when the topic can't be read to its end.
    """
    topic, key = positions_topic(settings.source.name), settings.source.slot.encode()
    first, end = _bounds(settings.kafka, TopicPartition(topic, 0))
    back = _TAIL_RECORDS
    with closing(librdkafka.made(Consumer, reader_options(settings.kafka))) as reader:
        while end > first:
            start = max(first, end - back)
            found = _last_between(reader, TopicPartition(topic, 0, start), end, key)
            if found is not None or start == first:
                return decode_record(found) if found else None
            back *= 10
    return None


def _bounds(kafka: Kafka, partition: TopicPartition) -> tuple[int, int]:
    """Ask for the first offset and the end, that of open transactions included.

    A transaction is committed before its markers are written, and until then a `read_committed` end stands before it.
    """
    admin = _Admin(kafka)
    # It knows all leaders from then on. One that librdkafka 2.16 has to ask for, it may hear of too soon: it then waits
    # for 3 s (1 start in 20).
    admin.asked(admin.topics)

    def offset(which: OffsetSpec) -> int:
        asked = admin.client.list_offsets(
            {partition: which}, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=_ANSWER_S
        )
        found = int(asked[partition].result().offset)
        if found < 0:
            # A line that breaks in mid-question: librdkafka 2.16 gives this then, and no error.
            raise BrokerUnavailable("Kafka did not say how far the positions topic reaches")
        return found

    def ask(which: OffsetSpec) -> int:
        return admin.asked(lambda: _once_led(lambda: offset(which), admin.topics))

    return ask(OffsetSpec.earliest()), ask(OffsetSpec.latest())  # type: ignore[no-untyped-call]


def _once_led(ask: Callable[[], T], look: Callable[[], object]) -> T:
    """Ask again while the partition has no leader, as admin calls of librdkafka do not do by themselves.

    Nor do they look again at who leads: what the client knows is what they go by.
    """
    deadline_s = time.monotonic() + _ANSWER_S
    while True:
        try:
            return ask()
        except KafkaException as exc:
            if exc.args[0].code() not in _NO_LEADER_YET or time.monotonic() > deadline_s:
                raise
        time.sleep(_ASK_AGAIN_S)
        look()


def reader_options(kafka: Kafka) -> dict[str, Any]:
    """Say how what is committed is read, from where it is said to its end, and without a group."""
    return librdkafka.options(kafka) | {
        "group.id": "pgherald-capture",  # asked for by librdkafka; no group is joined, nothing is committed
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",  # by default it would go to the end, where no position is found
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 10,  # that it is the end, a broker says when it has waited for more: by default for 0.5 s
        "queued.max.messages.kbytes": 1024,
        "fetch.queue.backoff.ms": 10,  # how long nothing is fetched when so much waits: by default for 1 s
    }


def _last_between(reader: Consumer, start: TopicPartition, end: int, key: bytes) -> bytes | None:
    """Read to the end; what is committed and not yet marked so is waited for."""
    reader.assign([start])
    found = None
    while True:
        message = reader.poll(_ANSWER_S)
        if message is None:
            raise BrokerUnavailable("the positions topic can't be read to its end")
        error, value = message.error(), message.value()
        if error is None:
            found = bytes(value) if message.key() == key and isinstance(value, bytes) else found
            if (message.offset() or 0) >= end:
                return found  # written meanwhile: a busy reader would let us come to no end
        elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            continue  # librdkafka asks for the group that we only name; reading goes on without it
        elif error.code() != KafkaError._PARTITION_EOF:
            raise librdkafka.classify(error)
        elif (message.offset() or 0) >= end:
            return found
