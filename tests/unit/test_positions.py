"""What is asked of a partition again when it can't be answered yet."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from cdc import positions


class Answers:
    """A partition that gives an error first, and knows whether somebody looked at the cluster since."""

    def __init__(self, code: int) -> None:
        self._error: KafkaError | None = KafkaError(code)

    def ask(self) -> int:
        if self._error is not None:
            raise KafkaException(self._error)
        return 7

    def look(self) -> None:
        self._error = None


@pytest.mark.parametrize("code", [KafkaError.FENCED_LEADER_EPOCH, KafkaError.OFFSET_NOT_AVAILABLE, KafkaError._NOENT])
def test_a_partition_whose_leader_changes_is_asked_again_after_a_look_at_the_cluster(code: int) -> None:
    answers = Answers(code)
    assert positions._once_led(answers.ask, answers.look) == 7


def test_a_partition_that_refuses_is_not_asked_again() -> None:
    answers = Answers(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        positions._once_led(answers.ask, answers.look)
