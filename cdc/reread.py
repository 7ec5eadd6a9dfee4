"""The rows of a captured table as they are now, for a recovery: rendered as a snapshot's, so that what stays home does.

The consumers, who know no module of the reader, find it by its entry point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from cdc import positions, snapshot, start
from cdc.contract.envelope import RECOVERY
from cdc.copied import Blocks, CopiedRows
from cdc.history import OldRow
from cdc.rows import TablePlan
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.fields import TableName, quoted
from cdc.runtime.postgres import Connection, errors
from cdc.runtime.settings import Settings
from cdc.source import clock_json, source_json

#: Gets a row's key and its envelope.
OnRow = Callable[[bytes | None, bytes], None]


class Rows:
    """One consistent look at the captured tables."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._plans = {plan.name: plan for plan in start.table_plans(settings, connection)}
        # After the snapshot is taken: whatever it shows was committed below this LSN.
        ((lsn, self._database),) = self._ask(
            "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn, current_database() FROM pg_current_snapshot()"
        )
        self.lsn = int(lsn)  # type: ignore[call-overload]

    def epoch(self) -> int:
        """Give the epoch in which the reader is; 0 before its first. Raises BrokerUnavailable."""
        record = positions.last_record(self._settings)
        return record.epoch if record else 0

    def read(self, table: TableName, condition: str, on_row: OnRow) -> None:
        """Read the rows for which an SQL condition holds, in no order, one by one in flat memory.

        Raises ConfigInvalid when it is no condition of this table.
        """
        plan = self._plans[table]
        columns = ", ".join(quoted(name) for name in plan.written())
        query = f"COPY (SELECT {columns} FROM {table.sql()} WHERE {condition}) TO STDOUT"  # noqa: S608
        rows = CopiedRows(plan)
        with _condition_errors(), closing(self._connection.cursor()) as cursor:
            cursor.copy_expert(query, Blocks(lambda line: on_row(*self._told(plan, rows.row(line)))))

    def columns(self, table: TableName) -> dict[str, str]:
        """Give a table's columns and their types."""
        return {name: column.type for name, column in self._plans[table].columns.items()}

    def _told(self, plan: TablePlan, row: OldRow) -> tuple[bytes | None, bytes]:
        now_ns = time.time_ns()
        source = source_json(
            self._settings.source.name,
            self._database,
            plan.source_tail,
            micros=now_ns // 1000,
            snapshot=RECOVERY,
            sequence=(None, self.lsn),
            xid=None,
        )
        parts = (row.after, source, clock_json(now_ns))
        return row.key, b'{"before":null,"after":%b,"source":%b,"transaction":null,"op":"r",%b}' % parts

    def _ask(self, query: str) -> list[tuple[object, str]]:
        with errors(), closing(self._connection.cursor()) as cursor:
            cursor.execute(query)
            return cursor.fetchall()


@contextmanager
def open_rows(settings: Settings) -> Iterator[Rows]:
    """Look at the captured tables in one read-only snapshot. Raises what table_plans raises."""
    with closing(start.connect(settings)) as connection:
        snapshot.begin(connection, locked=[plan.name for plan in start.table_plans(settings, connection)])
        yield Rows(settings, connection)


@contextmanager
def _condition_errors() -> Iterator[None]:
    """Say what is wrong with the condition in the server's words: it is the operator's own text."""
    try:
        with errors():
            yield
    except Exception as exc:
        state = str(getattr(exc, "fields", {}).get("sqlstate", ""))
        if state.startswith(("42", "22", "25006")) and state != "42501":
            raise ConfigInvalid(f"--where: {str(exc.__cause__).splitlines()[0]}") from exc
        raise
