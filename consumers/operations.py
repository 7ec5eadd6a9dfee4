"""What an operator asks of the ledger, in read-only transactions. The queries are in operate.sql."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import msgspec

from cdc.runtime import postgres
from cdc.runtime.errors import ConfigInvalid, FatalError, ServiceError
from consumers import condition, queries

_SQL = queries.load("operate.sql")
#: SQLSTATEs of a condition that does not parse or apply, or would change something, and of tables that are not there.
_NOT_SQL, _NO_LEDGER = ("42", "22", "25006"), ("42P01", "3F000")
#: Rows of one page: what becomes of them is one transaction, which holds the locks of their queues.
_PAGE = 500

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


def as_kafka_writes(key: str) -> str:
    """Write a key as the reader does: JSON without blanks. What is no JSON is looked for as it is."""
    try:
        return msgspec.json.encode(msgspec.json.decode(key)).decode()
    except msgspec.MsgspecError:
        return key


class Operations:
    """The operator's view of the ledger, over one connection. Raises our errors."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: postgres.Connection | None = None

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def find(self, wanted: Filter, limit: int | None = None) -> Iterator[Row]:
        """Find deliveries, newest first, in flat memory. Raises ConfigInvalid when `where` is no condition."""
        with self._asking(wanted) as connection, closing(connection.cursor("found")) as cursor:
            cursor.execute(_query("find", wanted), asdict(wanted) | {"limit": limit})
            for row in cursor:
                yield _named(cursor, row)

    def count_by_reason(self, wanted: Filter) -> list[Row]:
        """Count deliveries by rule, state and reason; `last` is the highest id of each. Raises as `find`."""
        return self._ask(_query("count_by_reason", wanted), asdict(wanted), wanted)

    def pages(self, wanted: Filter, last: int) -> Iterator[list[Row]]:
        """Find deliveries up to an id, oldest first, page by page, each as it is when it is asked for."""
        query, after = _query("page", wanted), -1
        while page := self._ask(query, asdict(wanted) | {"after": after, "last": last, "most": _PAGE}, wanted):
            if chosen := [row for row in page if row["chosen"]]:
                yield chosen
            after = page[-1]["id"]

    def show(self, delivery_id: int) -> Row | None:
        """Give one delivery with its event, and what operators did to it."""
        return next(iter(self._ask(_SQL["show"], {"id": delivery_id})), None)

    def lanes(self) -> list[Row]:
        """List the lanes that have unfinished deliveries or were paused once."""
        return self._ask(_SQL["lanes"])

    def states(self) -> list[Row]:
        """Count deliveries by consumer, rule and state."""
        return self._ask(_SQL["states"])

    def history(self, since: datetime | None, limit: int | None) -> list[Row]:
        """List the commands that changed something, newest first."""
        return self._ask(_SQL["history"], {"since": since, "limit": limit})

    def _ask(self, query: str, values: Mapping[str, object] | None = None, wanted: Filter = Filter()) -> list[Row]:
        with self._asking(wanted) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(query, values or {})
            return [_named(cursor, row) for row in cursor.fetchall()]

    @contextmanager
    def _asking(self, wanted: Filter) -> Iterator[postgres.Connection]:
        """Open a read-only transaction; what is wrong with an operator's condition is the condition's fault."""
        try:
            with postgres.errors(), self._open() as connection:
                yield connection
        except ServiceError as exc:
            state = str(exc.fields.get("sqlstate"))
            if state in _NO_LEDGER:
                raise FatalError(
                    "the ledger is not there yet, or an older one", hint="pgherald ledger migrate"
                ) from exc
            if wanted.where != "true" and state.startswith(_NOT_SQL):
                raise ConfigInvalid(f"--where: {str(exc.__cause__).splitlines()[0]}") from exc
            raise

    def _open(self) -> postgres.Connection:
        if self._connection is None:
            self._connection = postgres.connect(self._dsn, application_name="pgherald operator")
            self._connection.set_session(readonly=True)
        return self._connection


def _query(name: str, wanted: Filter) -> str:
    """Put the operator's condition into a query. Raises ConfigInvalid when it is more than a condition."""
    if fault := condition.fault(wanted.where):
        raise ConfigInvalid(f"--where: {fault}", hint="Write one SQL condition, such as key LIKE '%17%'")
    return _SQL[name].replace("{where}", wanted.where.replace("%", "%%"))


def _named(cursor: Any, row: Sequence[object]) -> Row:
    return {column.name: value for column, value in zip(cursor.description, row, strict=True)}
