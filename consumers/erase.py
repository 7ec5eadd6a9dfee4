"""One user's erasure from the ledger: events, servers' answers, the key. The rows of facts stay, under a hash of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from cdc.contract.topics import table_topic
from cdc.runtime.errors import RetryableError
from cdc.runtime.fields import duration_text
from cdc.runtime.settings import Settings
from consumers.audit import pseudonym
from consumers.operations import Filter, Operations, Row, as_kafka_writes
from consumers.operator import Operator

#: What is being delivered at this moment ends first, and is waited for so long.
_PATIENCE_S = 15.0
_UNFINISHED = ("pending", "claimed", "sending")
#: No delivery has a higher id.
_LAST = 2**63 - 1


class Erasure:
    """Erases users from the ledger. Raises what the ledger raises, and RetryableError: run it again."""

    def __init__(self, settings: Settings, who: str) -> None:
        self._settings = settings
        self._operations = Operations(settings.ledger_dsn)
        self._operator = Operator(settings.ledger_dsn, who)

    def close(self) -> None:
        """Close the connections."""
        self._operations.close()
        self._operator.close()

    def look(self, key: str) -> dict[str, Any]:
        """Tell what would be erased, and what stays elsewhere."""
        key = as_kafka_writes(key)
        counted = self._operations.count_by_reason(Filter(key=key))
        return self._said(
            key,
            deliveries=sum(row["count"] for row in counted),
            cancelled=sum(row["count"] for row in counted if row["state"] in _UNFINISHED),
            events=None,
        )

    def erase(self, key: str) -> dict[str, Any]:
        """Erase a key, and tell what was erased and what stays elsewhere.

        A crash on the way: what is done is done, and the same command does the rest.
        """
        key = as_kafka_writes(key)
        pages = self._rounds(key, time.monotonic() + _PATIENCE_S)
        changed = self._operator.erase(pages, {"key": pseudonym(key)}, key, pseudonym(key))
        return self._said(key, deliveries=changed.total(), cancelled=changed["pending"], events=self._operator.events)

    def _rounds(self, key: str, until_s: float) -> Iterator[Sequence[Row]]:
        """Give the key's deliveries page by page, again and again until none has it: what is in work ends first."""
        wanted = Filter(key=key)
        while True:
            yield from self._operations.pages(wanted, _LAST)
            if not self._operations.count_by_reason(wanted):
                return
            if time.monotonic() > until_s:
                raise RetryableError("some are being delivered at this moment", hint="Run it again for these")
            time.sleep(0.2)

    def _said(self, key: str, **counted: int | None) -> dict[str, Any]:
        return {"key": pseudonym(key), **counted, "stays": list(self._stays())}

    def _stays(self) -> Iterator[str]:
        source, retention = self._settings.source, duration_text(self._settings.kafka.retention)
        topics = sorted(table_topic(source.name, *table.name) for table in source.tables)
        yield f"records in Kafka until kafka.retention ({retention}): {', '.join(topics)}"
        yield "the row in the application: delete it there, then run this once more when its events have passed"
        yield "a hash of the address on the suppression list, if it is there: `pgherald suppression remove ADDRESS`"
        yield "backups and WAL of the ledger's database, and what relays and services know"
