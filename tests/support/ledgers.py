"""Entries for the ledger, and what its rows must satisfy at any moment."""

from collections.abc import Sequence
from datetime import UTC, datetime

from cdc.contract.position import Position
from consumers.delivery import Entry, Planned
from tests.support.database import Database

LANE = "mail:welcome"
RULES = ["welcome"]

_BAD_QUEUES = """
    SELECT consumer, lane, key, count(*) FILTER (WHERE head) AS heads
    FROM pgherald.delivery
    WHERE finished_at IS NULL AND key IS NOT NULL
    GROUP BY 1, 2, 3
    HAVING count(*) FILTER (WHERE head) <> 1
"""


def entry(
    lsn: int,
    key: str | None = "a",
    *,
    index: int = 1,
    planned: Sequence[Planned] = (Planned("welcome", "welcome", LANE),),
    value: bytes = b"",
    event_id: str = "",
    readable: bool = True,
) -> Entry:
    """Make an event at a position, by default with one pending mail."""
    envelope = b'{"op":"c","source":{"name":"t","ts_ms":1,"schema":"public","table":"User"},"after":{"id":%d}}' % lsn
    return Entry(
        event_id=event_id or f"t:1:{lsn:016x}:{index}",
        topic="t.public.User",
        partition=0,
        record_offset=lsn,
        committed_at=datetime.now(UTC),
        key=key,
        position=Position(lsn, index),
        value=value or envelope,
        readable=readable,
        planned=planned,
    )


def states(database: Database) -> dict[int, str]:
    """Read the state of each delivery, by its event's LSN."""
    return {
        int(lsn): state
        for lsn, state in database.execute("SELECT position_lsn - '0/0'::pg_lsn, state FROM pgherald.delivery")
    }


def assert_one_head_per_queue(database: Database) -> None:
    """Each queue with unfinished deliveries has exactly one head: none is stuck, none runs beside another."""
    assert database.execute(_BAD_QUEUES) == []
