"""The transactional producer on a real broker, when another takes its transactional id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from cdc.contract.event import Event
from cdc.contract.position import PositionRecord, SnapshotState
from cdc.contract.topics import positions_topic
from cdc.positions import ensure_topics, last_record
from cdc.publisher import Publisher
from cdc.runtime.errors import BrokerUnavailable
from cdc.runtime.settings import Settings
from deploy.local.net import until
from tests.support.servers import KafkaServer


@pytest.fixture
def settings(kafka: KafkaServer, name: str) -> Settings:
    given = Settings.model_validate(
        {
            "source": {"name": name, "dsn": "", "tables": [{"name": "users"}]},
            "kafka": {"bootstrap_servers": kafka.bootstrap},
        }
    )
    ensure_topics(given)
    return given


@pytest.fixture
def publisher(settings: Settings) -> Iterator[Publisher]:
    with closing(Publisher(settings.kafka, settings.transactional_id, lambda: None)) as made:
        made.fence()
        yield made


def test_a_fence_that_is_noticed_between_two_records_is_classified_too(
    settings: Settings, publisher: Publisher
) -> None:
    with closing(Publisher(settings.kafka, settings.transactional_id, lambda: None)) as rival:
        rival.fence()
        event = Event(f"{settings.source.name}.public.users", b"1", b"{}", [], "", "c")
        with pytest.raises(BrokerUnavailable, match="FENCED"):
            until(lambda: publisher.publish(event), 10, "the fence to be noticed")


def test_a_fence_that_is_noticed_while_records_are_sent_ahead_is_classified_too(
    settings: Settings, publisher: Publisher
) -> None:
    for id_ in range(20):
        publisher.publish(Event(f"{settings.source.name}.public.users", b"%d" % id_, b"{}", [], "", "c"))
    with closing(Publisher(settings.kafka, settings.transactional_id, lambda: None)) as rival:
        rival.fence()
        with pytest.raises(BrokerUnavailable, match="FENCED"):
            publisher.send(positions_topic(settings.source.name), b"slot", b"{}")


def test_of_the_positions_in_a_transaction_the_last_one_counts_and_none_of_one_that_is_dropped(
    settings: Settings, publisher: Publisher
) -> None:
    def record(lsn: int) -> tuple[str, bytes, bytes]:
        at = PositionRecord(
            system_id="1", timeline=1, epoch=1, lsn=lsn, index=1, snapshot=SnapshotState("done"), options="o"
        )
        return positions_topic(settings.source.name), settings.source.slot.encode(), msgspec.json.encode(at)

    def last() -> int | None:
        found = last_record(settings)
        return found.lsn if found else None

    for ahead, end in ((1, 2), (3, 3)):
        publisher.begin()
        publisher.send(*record(ahead))
        publisher.commit(*record(end))
        assert last() == end
    publisher.begin()
    publisher.send(*record(4))
    publisher.close()
    assert last() == 3
