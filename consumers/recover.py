"""After records or a slot were lost: which users never got which delivery, and their planning as ordinary ones.

The table says who is there, the ledger who got what; no record in Kafka is needed. A row is read as an `r` of the kind
"recovery", which rules see as `created`. What was deleted meanwhile is in no table: nobody can tell what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import entry_points
from itertools import islice
from typing import Protocol, cast

from cdc.contract import envelope as wire
from cdc.contract.lsn import format_lsn
from cdc.contract.position import Position, key_digest
from cdc.contract.topics import group_id, table_topic
from cdc.runtime import postgres
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.fields import TableName, quoted
from cdc.runtime.sections import Rule
from cdc.runtime.settings import Settings
from consumers import condition
from consumers.audit import pseudonym
from consumers.delivery import Entry, Planned
from consumers.events import RECOVERED, Event, committed_at
from consumers.ledger import Ledger
from consumers.rules import Rules

#: The entry point that opens a look at the source's tables.
ROWS = "pgherald.rows"
#: How long the reader and the consumers may take to catch up with what the look shows.
_PATIENCE_S = 20.0
#: For each batch the ledger is read through once: so few of them, and of rows as they came, which take little memory.
_BATCH, _BATCH_BYTES = 20_000, 16 * 1024 * 1024
#: How many events are planned in one transaction, as a poll's are.
_STORED = 500
#: Columns that tell when a row was made, if they are of a type with a time; tried in this order.
_CREATED = ("created_at", "createdat", "created_on", "created", "date_created", "registered_at", "date_joined")
_ACTIVE = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
_CONFIRMED = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s AND active"
#: Something for the reader to come by, in a database where nothing else is written.
_SOMETHING = "SELECT pg_logical_emit_message(true, 'pgherald', '{}')"


#: A key and its envelope.
Row = tuple[str, bytes]


class Rows(Protocol):
    """A consistent look at the captured tables: what the entry point gives."""

    lsn: int

    def epoch(self) -> int: ...
    def read(self, table: TableName, condition: str, on_row: Callable[[bytes | None, bytes], None]) -> None: ...
    def columns(self, table: TableName) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class Missing:
    """A delivery that was never planned."""

    consumer: str
    rule: str
    target: str
    lane: str
    key: str


class _Batch:
    """Rows that wait to be compared."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._bytes = 0

    def add(self, key: str, value: bytes) -> None:
        self.rows.append((key, value))
        self._bytes += len(value)

    def clear(self) -> None:
        self.rows.clear()
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self.rows) >= _BATCH or self._bytes >= _BATCH_BYTES


class Recovery:
    """Compares one table with the ledger. What it plans stands at the rows' LSN: behind all that was committed."""

    def __init__(self, settings: Settings, table: TableName, rows: Rows, epoch: int) -> None:
        self._settings, self._table, self._rows, self._epoch = settings, table, rows, epoch
        consumers = sorted({rule.consumer for rule in self._rules_of(table)})
        self.rules = {consumer: Rules(settings, consumer) for consumer in consumers}
        self._ledgers = {consumer: Ledger(settings.ledger_dsn, consumer) for consumer in consumers}

    def close(self) -> None:
        """Close the connections."""
        for ledger in self._ledgers.values():
            ledger.close()

    def created(self) -> str | None:
        """Name the column that tells when a row was made, if there is one."""
        columns = {name.lower(): name for name, type_ in self._rows.columns(self._table).items() if _is_time(type_)}
        return next((columns[name] for name in _CREATED if name in columns), None)

    def behind(self) -> str:
        """Say who has not yet come by what the look shows; empty: whatever the ledger lacks now is missing.

        First the reader, then the consumers: what the reader has published by then, they have to have read.
        """
        from cdc.runtime import kafka  # here, as `pgherald --help` would wait for the client that only this needs

        if self._ask(_ACTIVE, self._settings.source.slot) != (True,):
            return "`pgherald capture` does not run"
        self._ask(_SOMETHING)
        if not _waited(self._is_captured):
            return f"`pgherald capture` has not come to {format_lsn(self._rows.lsn)} yet"
        topic = table_topic(self._settings.source.name, *self._table)
        for consumer in self.rules:
            group = group_id(self._settings.source.name, consumer)
            if not _waited(lambda group=group: not kafka.has_unread(self._settings.kafka, group, topic)):  # type: ignore[misc]
                return f"`pgherald consume {consumer}` has not read {topic} to its end yet"
        return ""

    def missing(
        self, where: str, found: Callable[[Missing], None], compared: Callable[[int], None], *, apply: bool
    ) -> None:
        """Find what is missing of the rows that a condition chooses; with `apply`, plan it too.

        `compared` is told of each batch's length.
        """
        batch = _Batch()

        def compare() -> None:
            self._compare(batch.rows, found, apply)
            compared(len(batch.rows))
            batch.clear()

        def take(key: bytes | None, value: bytes) -> None:
            if key is None:
                raise ConfigInvalid(f"{self._table} has no primary key: who got what can't be told")
            batch.add(key.decode(), value)
            if batch.is_full:
                compare()

        self._rows.read(self._table, where, take)
        compare()

    def _compare(self, rows: Sequence[Row], found: Callable[[Missing], None], apply: bool) -> None:
        for consumer, rules in self.rules.items():
            lacking = self._lacking(consumer, rules, rows)
            while entries := list(islice(lacking, _STORED)):
                if apply:
                    # Planned twice, by two at once or after a crash, it is the same event: nothing is doubled.
                    self._ledgers[consumer].store(entries)
                for entry in entries:
                    for planned in entry.planned:
                        found(Missing(consumer, planned.rule, planned.target, planned.lane, entry.key or ""))

    def _lacking(self, consumer: str, rules: Rules, rows: Sequence[Row]) -> Iterator[Entry]:
        keys = [key for key, _ in rows]
        had = self._ledgers[consumer].had([*keys, *map(pseudonym, keys)])
        for event in (self._event(key, value) for key, value in rows):
            names = (event.key, pseudonym(event.key or ""))
            planned = [
                planned
                for planned in rules.plan(event, event.committed_at)
                if planned.state == "pending" and not any((name, planned.rule, planned.target) in had for name in names)
            ]
            if planned:
                yield self._entry(event, planned)

    def _entry(self, event: Event, planned: Sequence[Planned]) -> Entry:
        return Entry(
            event_id=event.id,
            topic=table_topic(self._settings.source.name, *self._table),
            partition=-1,  # no record of Kafka's
            record_offset=-1,
            committed_at=event.committed_at,
            key=event.key,
            position=event.position,
            value=event.value,
            readable=True,
            planned=planned,
        )

    def _event(self, key: str, value: bytes) -> Event:
        envelope = wire.decode(value)
        id_ = f"{self._settings.source.name}:{self._epoch}:{RECOVERED}:{self._table}:{key_digest(key.encode())}"
        position = Position(self._rows.lsn, 0)
        return Event(id_, key, "created", position, committed_at(envelope), envelope, value)

    def _is_captured(self) -> bool:
        return self._ask(_CONFIRMED, format_lsn(self._rows.lsn), self._settings.source.slot) == (True,)

    def _ask(self, query: str, *values: str) -> object:
        dsn = self._settings.source.dsn.get_secret_value()
        with postgres.errors(), closing(postgres.connect(dsn, application_name="pgherald recover")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query, values)
                return cursor.fetchone()

    def _rules_of(self, table: TableName) -> Iterator[Rule]:
        for rule in self._settings.rules:
            if "created" in rule.on and self._settings.table_of(rule) == table:
                yield rule


def open_rows(settings: Settings) -> AbstractContextManager[Rows]:
    """Open a look at the source's tables, by the reader's own rendering."""
    (entry,) = entry_points(group=ROWS)
    return cast(AbstractContextManager[Rows], entry.load()(settings))


def chosen(created: str | None, since: datetime, where: str) -> str:
    """Write the condition that chooses rows: made since a time, where a column tells, and the operator's own."""
    if fault := condition.fault(where):
        raise ConfigInvalid(f"--where: {fault}", hint="Write one SQL condition over the table's columns")
    if created is None:
        return f"({where})"
    return f"({where}) AND {quoted(created)} >= '{since.astimezone(UTC).isoformat()}'"


def _is_time(type_: str) -> bool:
    return type_.startswith(("timestamp", "date"))


def _waited(holds: Callable[[], bool]) -> bool:
    """Wait for a condition, but no longer than the patience of a command."""
    until_s = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.5)
    return True
