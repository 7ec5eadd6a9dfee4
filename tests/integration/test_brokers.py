"""A cluster of three brokers, of which two must have what is acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from cdc.runtime.errors import BrokerUnavailable
from deploy.local.net import until
from tests.support import audit, local
from tests.support.deployment import Deployment
from tests.support.local import Cluster

TABLE = "CREATE TABLE users (id int PRIMARY KEY)"


@pytest.fixture(scope="module")
def kafka() -> Iterator[Cluster]:
    with local.cluster(3) as cluster:
        yield cluster


def insert(deployment: Deployment, id_: int) -> None:
    deployment.database.execute("INSERT INTO users VALUES (%s)", (id_,))


def until_visible(deployment: Deployment, rows: int) -> None:
    def there() -> bool:
        return len(deployment.records()) >= rows

    # A broker that died may still be named for a moment.
    until(there, 60, f"{rows} rows to be visible", ignore=(BrokerUnavailable,))


def audited(deployment: Deployment, ids: range) -> None:
    """Every row came as `c`, once."""
    deployment.until_caught_up()
    records = deployment.records()
    assert Counter((record.key, record.op) for record in records) == Counter((f'{{"id":{id_}}}', "c") for id_ in ids)
    assert audit.out_of_order(records) == []


def test_capture_goes_on_and_starts_while_any_one_broker_is_away(deployment: Deployment, kafka: Cluster) -> None:
    reader = deployment.capture()
    rows = 0
    for broker in kafka.brokers:
        broker.kill()
        insert(deployment, rows + 1)
        until_visible(deployment, rows + 1)
        reader.kill()
        reader = deployment.capture()
        insert(deployment, rows + 2)
        until_visible(deployment, rows := rows + 2)
        broker.start()
    audited(deployment, range(1, rows + 1))


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_what_too_few_brokers_take_is_told_and_published_once_when_they_are_back(
    deployment: Deployment, kafka: Cluster, fault: str
) -> None:
    reader = deployment.capture()
    insert(deployment, 1)
    until_visible(deployment, 1)
    told = reader.count("kafka_unreachable")
    for broker in kafka.brokers[1:]:
        getattr(broker, fault)()
    insert(deployment, 2)
    until(lambda: reader.count("kafka_unreachable") > told, 30, "the reader to notice")
    reader.kill()
    reader = deployment.start("capture")
    until(lambda: reader.said("kafka_unreachable"), 30, "a start to notice")
    kafka.unpause()
    kafka.start()
    until(lambda: reader.said("streaming"), 60, "the reader to stream")
    audited(deployment, range(1, 3))


def test_preflight_warns_of_a_broker_that_is_away_and_finds_no_fault(deployment: Deployment, kafka: Cluster) -> None:
    deployment.capture()
    kafka.brokers[2].kill()

    def warned() -> bool:
        result = deployment.run("preflight")
        return "Kafka names 2 brokers, and topics have 3 copies" in result.stdout and "FAULT" not in result.stdout

    until(warned, 30, "preflight to see it")
