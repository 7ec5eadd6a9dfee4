"""Loop 1: read events from Kafka, plan deliveries, store them, commit the offsets.

    until stop: poll -> read -> plan -> store (one transaction) -> commit_offsets

Nothing is in flight between polls and storing again changes nothing: a rebalance at any moment needs no listener. Only
this module, cdc.runtime.kafka and cdc.runtime.cluster speak to kafka-python.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import (
    CommitFailedError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
)

from cdc.contract.topics import group_id, table_topic
from cdc.runtime import cluster, kafka
from cdc.runtime.errors import AccessDenied, RecordsLost, RetryableError
from cdc.runtime.hints import RIGHTS
from cdc.runtime.lifecycle import Stop
from cdc.runtime.log import get_logger
from cdc.runtime.settings import Settings
from consumers import journal
from consumers.delivery import Entry
from consumers.ledger import Ledger
from consumers.patience import Patience
from consumers.planning import entry_of
from consumers.rules import Rules

#: A killed process's partitions are another's after six seconds, the least that brokers allow by default; a broker that
#: was away for long is tried every two.
_MEMBERSHIP = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 2_000, "reconnect_backoff_max_ms": 2_000}
#: What a commit meets when partitions are given to others, before it or while it is on its way.
_OUT_OF_DATE = (CommitFailedError, RebalanceInProgressError)
_POLL_MS = 1_000
_ANSWER_MS = 10_000
_SETTLE_S = 30.0
_log = get_logger("ingest")


class Ingest:
    """The ingest of one process: for one thread. `wake` is called when there is something to deliver."""

    def __init__(self, settings: Settings, rules: Rules, ledger: Ledger, stop: Stop, wake: Callable[[], None]) -> None:
        self.polled_at = 0.0  #: when a poll last returned and was stored; for readiness
        self._settings, self._rules, self._ledger, self._stop, self._wake = settings, rules, ledger, stop, wake
        self._group = group_id(settings.source.name, ledger.consumer)
        self._topics = sorted(table_topic(settings.source.name, *table) for table in rules.tables)
        self._to_store = Patience(stop, "the ledger, to store events")
        self._settle_at = 0.0
        self._room = 0

    def run(self) -> None:
        """Read until a stop is requested. Raises FatalError: RecordsLost, or access denied."""
        patience = Patience(self._stop, "Kafka")
        while not self._stop.requested:
            try:
                with self._member() as consumer:
                    while not self._stop.requested:
                        self._step(consumer)
                        patience.over()
            except RetryableError as exc:
                patience.wait(exc)
        self._ledger.close()

    @contextmanager
    def _member(self) -> Iterator[KafkaConsumer]:
        if missing := set(kafka.ensure_topics(self._settings)) & set(self._topics):
            if hidden := cluster.hidden(self._settings.kafka, missing):
                raise AccessDenied(f"Kafka lacks or hides the topics {', '.join(sorted(hidden))}", hint=RIGHTS)
            _log.warning("topics_missing", topics=sorted(missing), hint="`pgherald preflight` says how to create them")
        consumer = kafka.consumer(self._settings.kafka, self._group, **_MEMBERSHIP)
        try:
            consumer.subscribe(self._topics)
            yield consumer
        finally:
            consumer.close(timeout_ms=_ANSWER_MS)

    def _step(self, consumer: KafkaConsumer) -> None:
        self._hold_back(consumer)
        polled = self._poll(consumer)
        self._store(self._entries(record for records in polled.values() for record in records))
        self._commit_offsets(consumer, polled)
        if time.monotonic() > self._settle_at:
            # Now and then all of them: a broker that is away is noticed, and offsets of quiet partitions do not expire.
            self._commit_offsets(consumer, consumer.assignment())
            self._settle_at = time.monotonic() + _SETTLE_S
        self.polled_at = time.monotonic()

    def _poll(self, consumer: KafkaConsumer) -> dict[TopicPartition, list[Any]]:
        with kafka.errors():
            try:
                polled: dict[TopicPartition, list[Any]] = consumer.poll(timeout_ms=_POLL_MS)
            except NoOffsetForPartitionError as exc:
                # The group is new to these: from the earliest record, explicitly. What is too old the rules will say.
                consumer.seek_to_beginning(*exc.args[0])
                return {}
            except OffsetOutOfRangeError as exc:
                raise self._records_lost(exc.args[0]) from exc
            return polled

    def _records_lost(self, offsets: Mapping[TopicPartition, int]) -> RecordsLost:
        where = ", ".join(f"{tp.topic}:{tp.partition} at {offset}" for tp, offset in offsets.items())
        hint = (
            "Kafka deleted them unread (kafka.retention), or the topic was made anew: set the group to the earliest "
            "offset (kafka-consumer-groups.sh --reset-offsets --to-earliest) and start it; then "
            "`pgherald recover --since T` lists which users never got what"
        )
        _log.error("records_lost", severity="DATALOSS", group=self._group, next_offsets=where)
        return RecordsLost(f"Kafka no longer has the records that {self._group} would read next: {where}", hint=hint)

    def _entries(self, records: Iterable[Any]) -> list[Entry]:
        now = datetime.now(UTC)
        entries = (entry_of(record, self._rules, self._ledger.consumer, now) for record in records)
        found = [entry for entry in entries if entry is not None]
        for entry in found:
            if not entry.readable:
                at = {"topic": entry.topic, "partition": entry.partition, "offset": entry.record_offset}
                _log.error("record_undecodable", why=(entry.planned[0].error or {})["reason"], **at)
        return found

    def _store(self, entries: Sequence[Entry]) -> None:
        """Store what a poll gave, however long the ledger is away.

        The client's own thread keeps the membership meanwhile, for max.poll.interval (5 minutes); after it others get
        the same records, store them, and this store changes nothing.
        """
        if not entries:
            return
        # A crash just before the commit of this transaction: nothing is stored, no offset committed, all is read again.
        # A crash just after: all is stored, no offset committed; what is read again meets its own rows and stops there.
        stored = self._to_store.insist(partial(self._ledger.store, entries))
        self._room -= len(stored)
        journal.write_stored(stored)
        if any(state == "pending" for _, state in stored):
            self._wake()

    def _commit_offsets(self, consumer: KafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        """Commit how far this consumer has read: past the records, which are stored, and the markers behind them.

        The markers count: of a quiet partition Kafka deletes all records in time, and a group that stands before the
        last marker would look as if it had missed some.
        """
        positions = {partition: consumer.position(partition, timeout_ms=0) for partition in partitions}
        offsets = {partition: OffsetAndMetadata(at, "", -1) for partition, at in positions.items() if at is not None}
        if not offsets:
            return
        with kafka.errors():
            try:
                # A crash just before: these records are read again and change nothing. Just after: they are not.
                consumer.commit(offsets, timeout_ms=_ANSWER_MS)
            except _OUT_OF_DATE:
                # Others have these partitions now and read on from the last commit; what is stored is stored.
                _log.info("offsets_left_to_others", partitions=len(offsets))

    def _hold_back(self, consumer: KafkaConsumer) -> None:
        """Pause reading while the ledger holds max_backlog; polling goes on, or the membership would be lost.

        Counting reads every unfinished row's index entry, so it is done when the last count's room is used up.
        """
        if self._room <= 0:
            self._room = self._settings.consume.max_backlog - self._to_store.insist(self._ledger.unfinished)
        paused = consumer.paused()
        if self._room <= 0:
            if not paused:
                _log.warning("backlog_full", max_backlog=self._settings.consume.max_backlog)
            consumer.pause(*consumer.assignment())
        elif paused:
            _log.info("backlog_has_room", room=self._room)
            consumer.resume(*paused)
