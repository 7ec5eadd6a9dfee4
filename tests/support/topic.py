"""A topic of users, written as the reader writes it."""

import json
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Producer

from cdc.contract.position import Position, event_id
from cdc.runtime.settings import Settings


class Topic:
    """The users' topic, written as capture does: transactions, headers, keys."""

    def __init__(self, settings: Settings) -> None:
        self.name = f"{settings.source.name}.public.users"
        self.source = settings.source.name
        options = {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "transactional.id": settings.source.name,
            "message.max.bytes": 20_000_000,
        }
        self._producer = Producer(options)
        self._producer.init_transactions(30)
        self._lsn = 0

    def register(self, *users: str, op: str = "c", **more: Any) -> None:
        """Publish one event for each user, all in one transaction."""
        self.publish(*(self.event(user, op=op, **more) for user in users))

    def event(self, user: str, *, op: str = "c", after: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self._lsn += 1
        source = {"name": self.source, "ts_ms": 4_000_000_000_000, "schema": "public", "table": "users"}
        row = {"id": user, "email": f"{user}@example.org"} | dict(after or {})
        return {
            "key": json.dumps({"id": user}).encode(),
            "value": json.dumps({"op": op, "source": source, "before": None, "after": row}).encode(),
            "headers": [
                ("pgherald-event-id", event_id(self.source, 1, Position(self._lsn, 1)).encode()),
                ("pgherald-schema", b"1"),
            ],
        }

    def publish(self, *records: Mapping[str, Any], abort: bool = False) -> None:
        self._producer.begin_transaction()
        for record in records:
            self._producer.produce(self.name, **record)
        (self._producer.abort_transaction if abort else self._producer.commit_transaction)(30)
