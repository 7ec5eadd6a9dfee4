"""What an operator asks of the ledger and changes in it. The queries are in operate.sql."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from cdc.runtime import postgres
from cdc.runtime.errors import ConfigInvalid, FatalError, ServiceError
from consumers import queries
from consumers.ledger import Ledger

_SQL = queries.load("operate.sql")
#: SQLSTATEs of a condition that does not parse or apply, and of tables that are not there.
_NOT_SQL, _NO_LEDGER = ("42", "22"), ("42P01", "3F000")
#: Rows of one transaction: it holds the locks of their queues.
_BATCH = 500

Row = dict[str, Any]


@dataclass(frozen=True)
class Filter:
    """Which deliveries; None: all of them. `where` is SQL over the columns of delivery and event."""

    ids: Sequence[int] | None = None
    states: Sequence[str] | None = None
    rule: str | None = None
    lane: str | None = None
    key: str | None = None
    since: datetime | None = None
    where: str = "true"


class Operations:
    """The operator's view of the ledger, over one connection that is opened for each call. Raises our errors."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def find(self, wanted: Filter, limit: int | None = None) -> list[Row]:
        """Find deliveries, newest first. Raises ConfigInvalid when `where` is not SQL."""
        values = asdict(wanted) | {"limit": limit}
        query = _SQL["find"].replace("{where}", wanted.where.replace("%", "%%"))
        try:
            return self._ask(query, values)
        except ServiceError as exc:
            if wanted.where != "true" and str(exc.fields.get("sqlstate")).startswith(_NOT_SQL):
                raise ConfigInvalid(f"--where: {str(exc.__cause__).splitlines()[0]}") from exc
            raise

    def show(self, delivery_id: int) -> Row | None:
        """Give one delivery with its event."""
        return next(iter(self._ask(_SQL["show"], {"id": delivery_id})), None)

    def count_by_reason(self, rows: Sequence[Row]) -> list[Row]:
        """Count deliveries by rule, state and reason."""
        return self._ask(_SQL["count_by_reason"], {"ids": [row["id"] for row in rows]})

    def replay(self, rows: Sequence[Row], states: Sequence[str], rate: float | None) -> int:
        """Make deliveries pending again, oldest first; tell how many.

        With a rate they come due one after another. They run out of order: later events of their keys may have run.
        """
        ordered = sorted(rows, key=lambda row: int(row["id"]))
        pause_s = 1.0 / rate if rate else 0.0
        return self._change("replay", ordered, {"states": list(states), "pause_s": pause_s})

    def cancel(self, rows: Sequence[Row]) -> int:
        """Cancel those that are pending; tell how many."""
        return self._change("cancel", rows, {})

    def lanes(self) -> list[Row]:
        """List the lanes that have unfinished deliveries or were paused once."""
        return self._ask(_SQL["lanes"], {})

    def states(self) -> list[Row]:
        """Count deliveries by consumer, rule and state."""
        return self._ask(_SQL["states"], {})

    def pause(self, consumer: str, lane: str, reason: str, by: str) -> None:
        """Let nothing of a lane be claimed until someone resumes it; what is in work ends."""
        self._ask(_SQL["pause"], {"consumer": consumer, "lane": lane, "reason": reason, "by": by})

    def resume(self, consumer: str, lane: str) -> bool:
        """End a pause, whoever made it; tell whether there was a lane of this name."""
        return bool(self._ask(_SQL["resume"], {"consumer": consumer, "lane": lane}))

    def _change(self, name: str, rows: Sequence[Row], values: Mapping[str, object]) -> int:
        of_consumer: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            of_consumer[row["consumer"]].append(row)
        return sum(self._change_of(consumer, name, mine, values) for consumer, mine in of_consumer.items())

    def _change_of(self, consumer: str, name: str, rows: Sequence[Row], values: Mapping[str, object]) -> int:
        ledger = Ledger(self._dsn, consumer)
        changed = 0
        try:
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                queues = list({(row["lane"], row["key"]): None for row in batch})
                given = {"ids": [row["id"] for row in batch], "begin": start, **values}
                changed += len(ledger.change(queues, name, given))
        finally:
            ledger.close()
        return changed

    def _ask(self, query: str, values: Mapping[str, object]) -> list[Row]:
        connection = postgres.connect(self._dsn, application_name="pgherald operator")
        try:
            with postgres.errors(), connection, connection.cursor() as cursor:
                cursor.execute(query, values)
                names = [column.name for column in cursor.description or ()]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if names else []
        except ServiceError as exc:
            if exc.fields.get("sqlstate") in _NO_LEDGER:
                raise FatalError("there is no ledger yet", hint="pgherald ledger migrate") from exc
            raise
        finally:
            connection.close()
