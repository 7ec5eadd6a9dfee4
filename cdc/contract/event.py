"""What the reader publishes: one Kafka record. Pure."""

from __future__ import annotations

from typing import Final

from cdc.contract.envelope import HEADER_EVENT_ID

#: Kafka record headers.
Headers = list[tuple[str, bytes]]


class Event:
    """One record of a topic; a tombstone has no value.

    `table` and `op` are for metrics and errors, never for routing. It is a plain class because that can be compiled:
    one is made and read for every row.
    """

    __slots__ = ("headers", "key", "op", "table", "topic", "value")

    def __init__(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, table: str, op: str
    ) -> None:
        self.topic: Final = topic
        self.key: Final = key
        self.value: Final = value
        self.headers: Final = headers
        self.table: Final = table
        self.op: Final = op

    @property
    def event_id(self) -> str:
        """The id that its headers carry; empty for what is no event (a position record)."""
        return dict(self.headers).get(HEADER_EVENT_ID, b"").decode()
