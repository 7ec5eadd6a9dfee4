"""The reader's transactional producer: events, and the position that they reach, in one Kafka transaction.

Either both are there for a `read_committed` consumer or neither is; that is what makes a restart exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cdc import librdkafka
from cdc.contract.event import Event
from cdc.markers import Markers
from cdc.runtime import metrics
from cdc.runtime.errors import BrokerUnavailable, ChangeUndecodable, ServiceError
from cdc.runtime.log import get_logger
from cdc.runtime.sections import Kafka
from cdc.skip import stopped_at
from cdc.wal2json import fingerprint

_log = get_logger("publisher")

#: An abandoned transaction holds back every `read_committed` consumer until it times out: keep that short.
TRANSACTION_TIMEOUT_S = 15
#: One blocking call; between two of them the slot gets its feedback.
_SLICE_S = 1.0
#: Brokers that take nothing, as where too few have copies in sync, are no error to librdkafka: it asks again.
_TELL_AFTER_S: Final = 5.0
#: What is not sent ahead within this, the commit waits for. confluent-kafka 2.16 waits for 0.2 s and more in steps, and
#: calls back between them although an error stands: that one is lost then (Producer.c, Producer_flush).
_AHEAD_S = 0.1
#: Brokers take 1 MB by default, compressed; nobody sets less than this.
_WIDE_BYTES: Final = 500_000
#: After how many events librdkafka may report: errors are not urgent, and each commit waits for them.
_SERVE_EVERY: Final = 64
#: How long reading stops where the queue is full: it has room again sooner than it is empty.
_FULL_S = 0.01
#: How large a transaction gets: what a crash makes us read again stays bounded.
_MAX_EVENTS: Final = 50_000
_MAX_BYTES: Final = 32_000_000
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE,)


def _too_large(event: Event) -> ChangeUndecodable:
    """Name the event that the broker does not take: its id, topic, length and hash, never its content."""
    exc = ChangeUndecodable(
        f"an event of {event.topic} is larger than the broker takes",
        hint="Raise max.message.bytes of its topic, or leave the wide column out (source.tables.exclude)",
        **fingerprint(event.value or b""),
    )
    return stopped_at(exc, event.event_id)


class Publisher:
    """One transaction after the other. Not thread-safe; after an error, make a new one.

    `keep_alive` is called between blocking slices, so that a slow broker never costs the slot its connection.
    """

    #: What close() lets go of: of a compiled class nothing else can be deleted (mypyc).
    __deletable__ = ("_producer",)

    def __init__(self, kafka: Kafka, transactional_id: str, keep_alive: Callable[[], None]) -> None:
        self._keep_alive = keep_alive
        self._refusal: KafkaError | None = None
        #: Large events of the open transaction, to name the one that the broker does not take.
        self._wide: list[Event] = []
        self._rejected: Event | None = None
        self._holds = self._is_away = False
        self._producer = librdkafka.made(Producer, self._options(kafka, transactional_id))
        #: When the open transaction began (monotonic clock); None while none is open.
        self.began_at: float | None = None
        #: The position that went ahead of the open transaction's end.
        self.ahead: bytes | None = None
        self.markers = Markers()
        self.events = 0
        self.size_bytes = 0
        self._uncommitted: dict[tuple[str, str], int] = {}

    def _options(self, kafka: Kafka, transactional_id: str) -> dict[str, Any]:
        return librdkafka.options(kafka) | {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_S * 1000,
            "linger.ms": 20,  # of a backlog's events: a commit waits for nothing
            "batch.size": 1_000_000,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 5_000,  # of usual rows they are 5 MB
            "queue.buffering.max.kbytes": 16_384,
            "message.max.bytes": 16_000_000,  # what fits the queue; how much it takes is for the broker to say
            "compression.type": "lz4",
            "partitioner": "murmur2_random",  # as Java's producers: a key keeps its partition for other writers too
            "delivery.report.only.error": True,
            "on_delivery": self._on_rejected,
            "error_cb": self._on_error,
        }

    def fence(self) -> None:
        """Take the transactional id over: a former holder's open transaction is aborted, its later ones fail.

        Call only while holding the slot, or a standby would fence the healthy reader.
        """
        if not self._holds:
            self._connect()
            self._in_slices(lambda: self._producer.init_transactions(_SLICE_S))
            self._holds = True

    def _connect(self) -> None:
        """Connect before anything is asked: where librdkafka 2.16 finds no connection, it looks again after 0.5 s."""
        with suppress(KafkaException):  # what comes next says why there is none
            self._producer.list_topics(timeout=_SLICE_S)

    def begin(self) -> None:
        """Open a transaction if none is open: its position record has something to say, whether events come or not."""
        if self.began_at is None:
            self._call(self._producer.begin_transaction)
            self.began_at = time.monotonic()

    @property
    def is_full(self) -> bool:
        """Tell whether the open transaction has grown enough."""
        return self.events >= _MAX_EVENTS or self.size_bytes >= _MAX_BYTES

    def publish(self, event: Event) -> None:
        """Add a record to the open transaction, or open one."""
        if self.began_at is None:
            self.begin()
        self._produce(event)
        size_bytes = len(event.value or b"")
        self.events += 1
        self.size_bytes += size_bytes
        what = event.table, event.op
        self._uncommitted[what] = self._uncommitted.get(what, 0) + 1
        if size_bytes > _WIDE_BYTES:
            self._wide.append(event)
        if self.events % _SERVE_EVERY == 0:
            self._serve(0)

    def send(self, topic: str, key: bytes, position: bytes) -> None:
        """Let the broker have what is in the open transaction, and the position that it reaches, ahead of its end.

        What is read meanwhile joins it. Neither events nor position are visible before the commit, and of two positions
        in a transaction the later one counts: a crash leaves none of them.
        """
        self._reach(topic, key, position)
        began_at = time.monotonic()
        self._call(lambda: self._producer.flush(_AHEAD_S))
        self.markers.note(time.monotonic() - began_at)

    def commit(self, topic: str, key: bytes, position: bytes) -> None:
        """End the open transaction with a position record; begin one if none is open.

        A crash before it: nothing of it is visible, the slot gives the changes again. A crash after it: the position
        says that they are there, and the restart skips them.
        """
        self.begin()
        self._reach(topic, key, position)
        self._in_slices(lambda: self._producer.commit_transaction(_SLICE_S))
        self._is_away = False
        self.began_at = self.ahead = None
        self.events = self.size_bytes = 0
        self._wide.clear()
        for (table, op), count in self._uncommitted.items():
            metrics.events_published.labels(table, op).inc(count)
        self._uncommitted.clear()

    def close(self) -> None:
        """Drop what is not committed, and the producer; the transaction is aborted where the broker can be asked."""
        if self.began_at is not None:
            try:
                self._producer.abort_transaction(_SLICE_S)
            except KafkaException as exc:
                _log.info("abort_failed", error=exc.args[0].name())
        self._producer.purge()
        # Its callbacks are ours: with threads and buffers it would stay until Python looks for such circles. Its own
        # close() would wait for a broker that hangs.
        del self._producer

    def _reach(self, topic: str, key: bytes, position: bytes) -> None:
        """Add a position record to the open transaction, unless its last one says the same."""
        if position != self.ahead:
            self._produce(Event(topic, key, position, [], "", "position"))
            self.ahead = position

    def _produce(self, event: Event) -> None:
        while True:
            try:
                # In their order: taking arguments by name costs as much as the headers do.
                self._producer.produce(event.topic, event.value, event.key, -1, None, None, 0, event.headers)  # type: ignore[arg-type]
            except BufferError:
                # The queue is full: reading stops here, feedback does not.
                self._keep_alive()
                self._serve(_FULL_S)
                self._check()
            except KafkaException as exc:
                if exc.args[0].code() == KafkaError._FATAL:
                    self._serve(0)  # says why
                if exc.args[0].code() in _TOO_LARGE:
                    raise _too_large(event) from exc
                raise self._classify(exc.args[0]) from exc
            else:
                return

    def _serve(self, wait_s: float) -> None:
        """Let librdkafka report; that this producer was fenced, it may say here first."""
        try:
            self._producer.poll(wait_s)
        except KafkaException as exc:
            raise self._classify(exc.args[0]) from exc

    def _in_slices(self, call: Callable[[], object]) -> None:
        """Repeat a call that may time out; librdkafka continues the same operation each time."""
        began_at = time.monotonic()
        while True:
            try:
                call()
            except KafkaException as exc:
                if not exc.args[0].retriable():
                    raise self._classify(exc.args[0]) from exc
                self._serve(0)  # that a broker turns us away is heard there, never in the call that waits for it
                self._check()
                if time.monotonic() - began_at >= _TELL_AFTER_S:
                    self._tell(exc.args[0])
            else:
                return
            finally:
                self._keep_alive()

    def _call(self, call: Callable[[], object]) -> None:
        try:
            call()
        except KafkaException as exc:
            raise self._classify(exc.args[0]) from exc

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._classify(self._refusal)

    def _on_error(self, error: KafkaError) -> None:
        if librdkafka.refuses(error):
            self._refusal = error
        else:
            self._tell(error)

    def _tell(self, error: KafkaError) -> None:
        if not self._is_away:
            self._is_away = True  # said once, until something gets through again
            _log.warning("kafka_unreachable", error=error.name())

    def _on_rejected(self, error: KafkaError | None, message: Message) -> None:
        if error is None or error.code() not in librdkafka.REFUSED + _TOO_LARGE:
            return
        self._refusal = error
        place, size_bytes = (message.topic(), message.key()), len(message.value() or b"")
        same = (e for e in self._wide if (e.topic, e.key) == place and len(e.value or b"") == size_bytes)
        self._rejected = next(same, None)

    def _classify(self, error: KafkaError) -> ServiceError:
        """Fenced, expired or failed transactions are all mended by a new producer behind the slot's lock."""
        error = self._refusal or error
        if librdkafka.refuses(error):
            return librdkafka.classify(error)
        if error.code() in _TOO_LARGE and self._rejected:
            return _too_large(self._rejected)
        return BrokerUnavailable(f"Kafka took the transaction away: {error.name()}")
