"""Reads the rows that are there: a consistent snapshot, in the order of the key, a chunk at a time.

Values come by COPY in text form: the same output functions as in the WAL, so that both render alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from cdc.command import watermark
from cdc.contract.xid import Seen
from cdc.copied import Blocks, CopiedRows
from cdc.history import OldRow
from cdc.privacy import Treatment, treatment
from cdc.routing import OWN_PREFIX
from cdc.rows import TablePlan
from cdc.runtime.errors import ChangeUndecodable, ConfigInvalid, ConnectionLost, PermanentError
from cdc.runtime.fields import TableName, quoted
from cdc.runtime.postgres import Connection, classify, errors
from cdc.skip import Skip

#: A chunk whose condition takes longer would never come to an end.
_CONDITION_TIMEOUT = "10min"
#: Operators of an extension's type lie in its schema: without it in the path, citext would be compared as text, and the
#: comparison would not fit the order of the key's index.
_KEY_SCHEMAS = """
    WITH RECURSIVE type(oid, base) AS (
        SELECT t.oid, t.typbasetype FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = %s::regclass AND a.attname = ANY (%s)
        UNION SELECT t.oid, t.typbasetype FROM type JOIN pg_type t ON t.oid = type.base
    )
    SELECT DISTINCT nspname FROM type JOIN pg_type t USING (oid) JOIN pg_namespace n ON n.oid = t.typnamespace
"""


def begin(connection: Connection, exported: str | None = None, locked: Sequence[TableName] = ()) -> Seen:
    """Open a snapshot's transaction, that of the new slot where one is given; tell what it sees.

    Tables that are locked keep their shape, and are not emptied between the snapshot and the reading.
    """
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if exported:
            cursor.execute("SET TRANSACTION SNAPSHOT %s", (exported,))
        if locked:
            lock(connection, locked)
        return visible(cursor)


def lock(connection: Connection, names: Sequence[TableName]) -> None:
    """Let nobody alter these tables while the transaction is open."""
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute(f"LOCK TABLE {', '.join(name.sql() for name in names)} IN ACCESS SHARE MODE")


def end(connection: Connection) -> None:
    """End the snapshot's transaction, and with it the lock."""
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute("COMMIT")


def visible(cursor: Cursor) -> Seen:
    """Ask what the present snapshot sees."""
    cursor.execute("SELECT pg_current_snapshot()::text")
    row = cursor.fetchone()
    return Seen.parse(row[0] if row else "0:0:")


def take_id(connection: Connection) -> None:
    """Use up a transaction id: what is `visible` from now on lists every transaction before it that has not ended.

    PostgreSQL lists those before the newest that has ended, and the one that is asked about may be newer. Rolled back,
    it waits for no standby.
    """
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN; SELECT pg_current_xact_id(); ROLLBACK")


def write_watermark(connection: Connection, nonce: str) -> None:
    """Write the high watermark: in the WAL it stands behind the commit of whatever was visible before."""
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute("SELECT pg_logical_emit_message(true, %s, %s)", (OWN_PREFIX, watermark(nonce)))


def is_resumable(plan: TablePlan) -> bool:
    """Tell whether a restart can go on behind a key: there is one, and it may leave the database as it is."""
    return bool(plan.key) and all(treatment(plan.table, name) is Treatment.KEEP for name in plan.key)


def bring_key_operators(connection: Connection, plan: TablePlan) -> None:
    """Make the operators of the key's types known to the open transaction."""
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute(_KEY_SCHEMAS, (plan.name.sql(), list(plan.key)))
        schemas = ["pg_catalog", *(name for (name,) in cursor if name != "pg_catalog")]
        cursor.execute(f"SET LOCAL search_path TO {', '.join(map(quoted, schemas))}")


def chunk_end(connection: Connection, plan: TablePlan, after: Sequence[str], rows: int) -> tuple[str, ...]:
    """Find the key up to which the next `rows` rows go; nothing when there are no more than that.

    A condition does not count here: however few rows it lets through, a chunk's work stays bounded.
    """
    key = ", ".join(map(quoted, plan.key))
    texts = ", ".join(f"{quoted(name)}::text" for name in plan.key)
    with errors(), closing(connection.cursor()) as cursor:
        where = f"WHERE {_compared(cursor, plan, '>', after)}" if after else ""
        # In two steps: ORDER BY would else take the key's text, which has its name.
        last = f"SELECT {key} FROM {plan.from_sql} {where} ORDER BY {key} OFFSET {rows - 1} LIMIT 1"  # noqa: S608
        cursor.execute(f"SELECT {texts} FROM ({last}) last")  # noqa: S608
        row = cursor.fetchone()
    return tuple(row) if row else ()


def read_rows(
    connection: Connection,
    plan: TablePlan,
    on_row: Callable[[OldRow], None],
    skip: Skip,
    *,
    between: tuple[Sequence[str], Sequence[str]] = ((), ()),
    condition: str = "",
    limit: int | None = None,
) -> None:
    """Read the rows behind one key and up to another, in the key's order; without keys every row, in no order.

    The condition must have passed `check_condition`: it is put into the statement as it is.
    """
    columns = ", ".join(quoted(name) for name in plan.written())
    after, upto = between
    with errors(), closing(connection.cursor()) as cursor:
        terms = [_compared(cursor, plan, sign, key) for sign, key in ((">", after), ("<=", upto)) if key]
        terms += [f"(\n{condition}\n)"] if condition else []
        query = f"SELECT {columns} FROM {plan.from_sql}" + (f" WHERE {' AND '.join(terms)}" if terms else "")  # noqa: S608
        if plan.key:
            query += f" ORDER BY {', '.join(map(quoted, plan.key))}"
        if limit is not None:
            query += f" LIMIT {limit}"  # never reached: it tells the planner to walk along the key
        with _refusals(condition), _as_stored(cursor):
            if condition:
                cursor.execute(f"SET LOCAL statement_timeout TO '{_CONDITION_TIMEOUT}'")
            cursor.copy_expert(f"COPY ({query}) TO STDOUT", Blocks(_taken(CopiedRows(plan), on_row, skip)))


def _taken(rows: CopiedRows, on_row: Callable[[OldRow], None], skip: Skip) -> Callable[[bytes], None]:
    def take(line: bytes) -> None:
        try:
            row = rows.row(line)
        except ChangeUndecodable as exc:
            if not skip.leaves_out_unread(exc):
                raise
        else:
            on_row(row)

    return take


def try_condition(connection: Connection, name: TableName, condition: str) -> None:
    """Let PostgreSQL plan a condition, so that whoever wrote it sees at once what is wrong. Raises ConfigInvalid.

    A role that may not read the table can't try; the reader will.
    """
    with closing(connection.cursor()) as cursor:
        try:
            cursor.execute(f"EXPLAIN SELECT FROM {name.sql()} WHERE (\n{condition}\n)")
        except psycopg2.errors.InsufficientPrivilege:
            return
        except psycopg2.Error as exc:
            error = classify(exc)
            if isinstance(error, ConnectionLost):
                raise error from exc
            raise ConfigInvalid(f"--where: {str(exc).splitlines()[0]}") from exc


@contextmanager
def _as_stored(cursor: Cursor) -> Iterator[None]:
    """Take the bytes of a SQL_ASCII database as they are: for one row that is not UTF8 it would refuse all of them."""
    unchecked = cursor.connection.info.parameter_status("server_encoding") == "SQL_ASCII"
    if unchecked:
        cursor.execute("SET LOCAL client_encoding TO SQL_ASCII")
    yield
    if unchecked:
        cursor.execute("SET LOCAL client_encoding TO UTF8")


@contextmanager
def _refusals(condition: str) -> Iterator[None]:
    """Tell a condition's fault from ours. Raises PermanentError; the server's text may hold values and is left out."""
    try:
        yield
    except psycopg2.Error as exc:
        if not condition or isinstance(classify(exc), ConnectionLost):
            raise
        raise PermanentError(f"the condition fails: {type(exc).__name__} (SQLSTATE {exc.pgcode})") from exc


def _compared(cursor: Cursor, plan: TablePlan, sign: str, key: Sequence[str]) -> str:
    """Compare the key with a value, as rows: the key's index is walked from there."""
    names = ", ".join(map(quoted, plan.key))
    values = ", ".join(
        f"{cursor.mogrify('%s', (text,)).decode()}::{_cast(plan.columns[name].type)}"
        for name, text in zip(plan.key, key, strict=True)
    )
    return f"({names}) {sign} ({values})"


def _cast(type_name: str) -> str:
    return '"char"' if type_name == "char" else type_name  # as wal2json names it; unquoted it is SQL's character(1)
