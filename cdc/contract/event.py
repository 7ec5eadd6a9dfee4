"""What the reader publishes: one Kafka record. Pure."""

from __future__ import annotations

import msgspec

from cdc.contract.envelope import HEADER_EVENT_ID

#: Kafka record headers.
Headers = list[tuple[str, bytes]]


class Event(msgspec.Struct, frozen=True, gc=False):
    """One record of a topic; a tombstone has no value."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    #: For metrics and errors, never for routing.
    table: str
    op: str

    @property
    def event_id(self) -> str:
        """The id that its headers carry; empty for what is no event (a position record)."""
        return dict(self.headers).get(HEADER_EVENT_ID, b"").decode()
