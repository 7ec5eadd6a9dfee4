"""What a cluster's answers mean."""

import pytest

from cdc.runtime import cluster
from cdc.runtime import kafka as client
from cdc.runtime.errors import BrokerUnavailable
from cdc.runtime.sections import Kafka


class Lonely:
    """An admin client of a controller that no broker has a lease from."""

    def describe_cluster(self) -> dict[str, list[object]]:
        return {"brokers": []}

    def close(self) -> None:
        pass


def test_a_cluster_that_names_no_broker_is_one_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "admin", lambda _: Lonely())
    with pytest.raises(BrokerUnavailable, match="Ask again"):
        cluster.look(Kafka(bootstrap_servers="nowhere:9092"), [], [])
