"""Which partitions are read back when a reader starts in the middle of a table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError

from cdc import recall
from cdc.runtime.errors import BrokerUnavailable


class OneOfTwo:
    """A cluster whose second partition answers with an error."""

    def __init__(self, code: int) -> None:
        self._error = KafkaError(code)

    def list_topics(self, timeout: float) -> Any:
        return SimpleNamespace(topics={"t.public.users": SimpleNamespace(partitions={0: None, 1: None})})

    def offsets_for_times(self, parts: list[Any], timeout: float) -> list[Any]:
        return [
            SimpleNamespace(partition=part.partition, error=self._error if part.partition else None) for part in parts
        ]


def parts(code: int) -> list[int]:
    found = recall._parts(cast(Consumer, OneOfTwo(code)), {"t.public.users": 1})
    return [part.partition for part in found]


def test_a_partition_that_may_not_be_read_is_left_out() -> None:
    assert parts(KafkaError.TOPIC_AUTHORIZATION_FAILED) == [0]


@pytest.mark.parametrize("code", [KafkaError.LEADER_NOT_AVAILABLE, KafkaError._TRANSPORT])
def test_a_partition_whose_broker_is_away_is_waited_for(code: int) -> None:
    with pytest.raises(BrokerUnavailable):
        parts(code)
