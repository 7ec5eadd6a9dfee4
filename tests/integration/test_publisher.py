"""The transactional producer on a real broker: when another takes its transactional id, and when it is closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdc.contract.event import Event
from cdc.contract.topics import positions_topic
from cdc.positions import ensure_topics
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


@pytest.mark.parametrize("hangs", [False, True])
def test_a_closed_producer_leaves_no_thread_behind_also_when_kafka_hangs(
    kafka: KafkaServer, settings: Settings, hangs: bool
) -> None:
    before = _threads()
    with closing(Publisher(settings.kafka, settings.transactional_id, lambda: None)) as made:
        made.fence()
        made.publish(Event(f"{settings.source.name}.public.users", b"1", b"{}", [], "", "c"))
        assert _threads() > before
        if hangs:
            kafka.pause()
    assert _threads() == before


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
