"""The consumers' Kafka client, as we configure it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Timer

import pytest
from confluent_kafka import Producer
from kafka import TopicPartition

from cdc import positions
from cdc.runtime import kafka as client
from cdc.runtime.errors import BrokerUnavailable
from cdc.runtime.sections import Kafka
from cdc.runtime.settings import Settings
from deploy.local.net import until
from deploy.local.servers import kafka_answers
from tests.support import local
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer

RECORDS, SIZE_BYTES = 30, 300_000
#: The broker's lease ends long before it asks for the next one: it is fenced most of the time, and answers.
FENCED = {"broker.session.timeout.ms": "100", "broker.heartbeat.interval.ms": "500"}


@pytest.fixture
def fenced() -> Iterator[Settings]:
    """Give settings whose broker has one record of the table `users`, and is fenced at this moment."""
    with local.kafka() as server:
        given = {"source": {"name": "t", "dsn": "dbname=none", "tables": [{"name": "users"}]}}
        settings = Settings.model_validate({**given, "kafka": {"bootstrap_servers": server.bootstrap}})
        assert client.ensure_topics(settings) == []
        with closing(client.producer(settings.kafka)) as producer:
            producer.send("t.public.users", b"x").get(10)
        server.settings.update(FENCED)
        server.restart()
        until(lambda: not kafka_answers(server.port), 10, "the broker to be fenced")
        yield settings


def ends(settings: Settings, *names: str) -> dict[str, int]:
    """Ask until there is an answer: that there is none yet is no wrong one."""
    ask = partial(client.end_offsets, settings.kafka, list(names))
    return until(ask, 60, "an answer", ignore=(BrokerUnavailable,))


def test_a_fenced_broker_s_topic_is_not_taken_for_one_that_is_not_there(fenced: Settings) -> None:
    assert ends(fenced, "t.public.users", "others") == {"t.public.users": 1, "others": 0}


def test_a_partition_without_a_leader_is_asked_again_how_far_it_reaches(fenced: Settings) -> None:
    assert positions.last_record(fenced) is None


def test_topics_are_created_as_soon_as_a_fenced_broker_is_back(fenced: Settings) -> None:
    other = fenced.model_copy(update={"source": fenced.source.model_copy(update={"name": "u"})})
    # It may be fenced again in the moment between: the reader begins again then, and so do we.
    until(lambda: positions.ensure_topics(other) == [], 20, "the topics", ignore=(BrokerUnavailable,))
    assert ends(fenced, "u.public.users") == {"u.public.users": 0}


def test_a_broker_that_takes_its_time_is_waited_for(kafka: KafkaServer) -> None:
    kafka.pause()
    waking = Timer(3, kafka.unpause)  # longer than kafka-python waits by itself
    waking.start()
    try:
        client.consumer(Kafka(bootstrap_servers=kafka.bootstrap), None).close()
    finally:
        waking.join()


def test_a_backlog_of_large_records_is_read_without_losing_the_connection(
    tmp_path: Path, database: Database, kafka: KafkaServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Deployment(tmp_path / "d", database, kafka, name) as deployment:
        settings = deployment.settings
        client.ensure_topics(settings)
        topic = deployment.topic()
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        for number in range(RECORDS):
            producer.produce(topic, b"x" * SIZE_BYTES, partition=number % 3)
        assert producer.flush(30) == 0
        read: list[int] = []
        with closing(client.consumer(settings.kafka, None)) as consumer:
            partitions = [TopicPartition(topic, number) for number in range(3)]
            consumer.assign(partitions)
            consumer.seek_to_beginning()

            def all_read() -> bool:
                for records in consumer.poll(timeout_ms=500).values():
                    read.extend(len(record.value) for record in records)
                return len(read) == RECORDS

            until(all_read, 30, "every record to be read")
        assert set(read) == {SIZE_BYTES}
        assert "InvalidReceiveError" not in caplog.text
