"""The servers that every other test relies on: the same promises from containers and from local processes."""

from contextlib import closing
from typing import Literal

import psycopg2
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from deploy.local.net import until
from tests.support.database import Database
from tests.support.servers import KafkaServer, Server

Fault = Literal["kill", "restart"]


def suffer(server: Server, fault: Fault) -> None:
    if fault == "kill":
        server.kill()
        server.start()
    else:
        server.restart()


@pytest.mark.parametrize("fault", ["kill", "restart"])
def test_postgres_keeps_its_port_and_what_was_committed(database: Database, fault: Fault) -> None:
    database.execute("CREATE TABLE kept (n int)")
    database.execute("INSERT INTO kept VALUES (1)")
    dsn = database.dsn
    suffer(database.server, fault)
    assert database.dsn == dsn
    assert database.execute("SELECT n FROM kept") == [(1,)]


@pytest.mark.parametrize("fault", ["kill", "restart"])
def test_kafka_keeps_its_port_and_what_was_acknowledged(kafka: KafkaServer, name: str, fault: Fault) -> None:
    topic, bootstrap = f"{name}.kept", kafka.bootstrap
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, b"value")
    assert producer.flush(10) == 0
    suffer(kafka, fault)
    assert kafka.bootstrap == bootstrap
    with closing(Consumer({"bootstrap.servers": bootstrap, "group.id": name})) as consumer:
        ends = until(
            lambda: consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10),
            20,
            "the broker to lead its partition again",
            ignore=(KafkaException,),
        )
        assert ends == (0, 1)


def test_a_paused_server_keeps_connections_open_and_answers_later(database: Database) -> None:
    with closing(database.connect()) as session, session.cursor() as cursor:
        database.server.pause()
        with pytest.raises(psycopg2.OperationalError, match="timeout"):
            psycopg2.connect(database.dsn, connect_timeout=2)
        database.server.unpause()
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


def test_wal2json_is_allowed(database: Database) -> None:
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'wal2json')", (database.name,))
    database.execute("CREATE TABLE users (id int PRIMARY KEY)")
    database.execute("INSERT INTO users VALUES (1)")
    lines = database.execute("SELECT data FROM pg_logical_slot_get_changes(%s, NULL, NULL)", (database.name,))
    assert any('"table":"users"' in line for (line,) in lines)
