"""The positions topic: what was committed a moment ago is what the next start finds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaConsumer

from cdc import positions
from cdc.contract.position import PositionRecord, SnapshotState
from cdc.contract.topics import positions_topic
from cdc.publisher import Publisher
from cdc.runtime import topics
from cdc.runtime.errors import BrokerUnavailable
from cdc.runtime.settings import Settings
from deploy.local.net import until
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.proxy import Proxy
from tests.support.servers import KafkaServer


def record(lsn: int) -> PositionRecord:
    return PositionRecord(
        system_id="1", timeline=1, epoch=1, lsn=lsn, index=1, snapshot=SnapshotState("done"), options="o"
    )


@pytest.fixture
def settings(tmp_path: Path, database: Database, kafka: KafkaServer, name: str) -> Iterator[Settings]:
    """Give settings whose topics are there."""
    with Deployment(tmp_path / "d", database, kafka, name) as deployment:
        positions.ensure_topics(deployment.settings)
        yield deployment.settings


def test_a_committed_record_is_found_at_once_however_many_there_are(
    tmp_path: Path, database: Database, kafka: KafkaServer, name: str
) -> None:
    with Deployment(tmp_path / "d", database, kafka, name) as deployment:
        settings = deployment.settings
        assert positions.ensure_topics(settings) == []
        assert positions.ensure_topics(settings) == []
        assert positions.last_record(settings) is None
        topic, key = positions_topic(name), settings.source.slot.encode()
        with closing(Publisher(settings.kafka, settings.transactional_id, keep_alive=lambda: None)) as publisher:
            publisher.fence()
            for lsn in range(1, 11):
                publisher.commit(topic, key, msgspec.json.encode(record(lsn)))
                found = positions.last_record(settings)
                assert found is not None
                assert found.lsn == lsn
            for other in range(250):  # more than is looked at first
                publisher.commit(topic, b"another slot", msgspec.json.encode(record(other)))
        found = positions.last_record(settings)
        assert found is not None
        assert found.lsn == 10


def test_of_the_positions_in_a_transaction_the_last_one_counts_and_none_of_one_that_is_dropped(
    settings: Settings, name: str
) -> None:
    def told(lsn: int) -> tuple[str, bytes, bytes]:
        return positions_topic(name), settings.source.slot.encode(), msgspec.json.encode(record(lsn))

    with closing(Publisher(settings.kafka, settings.transactional_id, keep_alive=lambda: None)) as publisher:
        publisher.fence()
        for ahead, end in ((1, 2), (3, 3)):
            publisher.begin()
            publisher.send(*told(ahead))
            publisher.commit(*told(end))
            assert positions.last_record(settings) == record(end)
        publisher.begin()
        publisher.send(*told(4))
    assert positions.last_record(settings) == record(3)


class Breaking(Proxy):
    """A line that breaks each time when a client asks for offsets."""

    _LIST_OFFSETS = b"\0\2"  # the api key, behind the length of the request

    def forward(self, chunk: bytes, sink: socket.socket) -> None:
        if chunk[4:6] == self._LIST_OFFSETS:
            raise OSError("broken")
        super().forward(chunk, sink)


def test_a_line_that_breaks_in_mid_question_never_looks_like_a_topic_without_a_position(
    tmp_path: Path, database: Database, kafka: KafkaServer, name: str
) -> None:
    (broker,) = kafka.brokers
    line = Breaking(broker.line.far, port=broker.line.near)
    with line, Deployment(tmp_path / "d", database, kafka, name, bootstrap=f"{line.host}:{line.port}") as deployment:
        settings = deployment.settings
        positions.ensure_topics(settings)
        with closing(Publisher(settings.kafka, settings.transactional_id, keep_alive=lambda: None)) as publisher:
            publisher.fence()
            publisher.commit(positions_topic(name), settings.source.slot.encode(), msgspec.json.encode(record(1)))
        with pytest.raises(BrokerUnavailable):
            positions.last_record(settings)


def test_the_last_record_is_found_while_the_reader_writes_on(settings: Settings, name: str) -> None:
    ended = threading.Event()

    def write() -> None:
        with closing(Publisher(settings.kafka, settings.transactional_id, keep_alive=lambda: None)) as publisher:
            publisher.fence()
            lsn = 0
            while not ended.is_set():
                lsn += 1
                publisher.commit(topic, key, msgspec.json.encode(record(lsn)))

    topic, key = positions_topic(name), settings.source.slot.encode()
    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: positions.last_record(settings), 20, "a record to be there")
    began_at = time.monotonic()
    for _ in range(5):
        assert positions.last_record(settings)
    took_s = time.monotonic() - began_at
    ended.set()
    writer.join()
    assert took_s < 10


def test_topics_have_the_partitions_that_settings_say(settings: Settings, kafka: KafkaServer) -> None:
    wanted = topics.wanted(settings)
    assert {topic.partitions for topic in wanted.values() if "positions" not in topic.name} == {3}
    with closing(KafkaConsumer(bootstrap_servers=kafka.bootstrap)) as client:
        for topic in wanted.values():
            assert len(client.partitions_for_topic(topic.name) or ()) == topic.partitions


def test_topics_that_may_not_be_made_are_named(
    tmp_path: Path, database: Database, kafka: KafkaServer, name: str
) -> None:
    with Deployment(tmp_path / "d", database, kafka, name, more="create_topics = false\n") as deployment:
        assert f"{name}.public.users" in positions.ensure_topics(deployment.settings)
        database.execute("CREATE TABLE users (id int PRIMARY KEY)")
        process = deployment.start("capture")
        assert process.exit_code() == 70
        assert "kafka.create_topics" in process.log.read_text()
