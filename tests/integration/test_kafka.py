"""The consumers' Kafka client, as we configure it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Producer
from kafka import TopicPartition

from cdc.runtime import kafka as client
from deploy.local.net import until
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer

RECORDS, SIZE_BYTES = 30, 300_000


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
