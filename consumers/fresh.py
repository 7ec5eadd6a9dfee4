"""The row of a user as it is now in the source database: read just before an effect, for rules with `still`.

Read-only, by the event's key, and only the columns that the event has: what stays home in the reader stays home here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from cdc.contract.envelope import UNAVAILABLE, Envelope, Row
from cdc.contract.xid import Seen
from cdc.runtime import postgres
from cdc.runtime.errors import DependencyDown, EnvelopeInvalid, RetryableError, ServiceError
from cdc.runtime.fields import TableName, quoted
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery

#: A table that is locked for long (a migration) is a database that does not answer. A row that a policy hides is not
#: gone: with row security off PostgreSQL refuses to read instead of leaving rows out.
_OPTIONS = "-c default_transaction_read_only=on -c row_security=off -c statement_timeout=10s -c TimeZone=UTC"
#: How a key's text becomes a value where PostgreSQL would not read what the envelope writes.
_FROM_KEY = {"bytea": "decode({}, 'base64')", "date": "rtrim({}, 'Z')::date"}
_TYPES = "SELECT attname, atttypid::regtype::text FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass"
#: Numbers with a point and JSON are text in the envelope. The other column tells which transactions the statement sees.
_READ = """
    SELECT (
        SELECT coalesce(jsonb_object_agg(field.key, CASE
            WHEN types.name = 'numeric' AND jsonb_typeof(field.value) = 'number' THEN to_jsonb(field.value #>> '{{}}')
            WHEN types.name IN ('json', 'jsonb') AND field.value <> 'null' THEN to_jsonb(field.value::text)
            ELSE field.value
        END), '{{}}')::text
        FROM {table} AS found
        CROSS JOIN LATERAL jsonb_each(to_jsonb(found)) AS field
        JOIN (SELECT attname, atttypid::regtype::text FROM pg_catalog.pg_attribute WHERE attrelid = %(table)s::regclass)
            AS types (attribute, name) ON attribute = field.key
        WHERE {condition} AND field.key = ANY (%(columns)s)
        HAVING count(*) > 0
    ), pg_current_snapshot()::text
"""
#: The WAL, and so Kafka, tells of a commit before other sessions see it: it may wait for a synchronous standby. An old
#: event waits for none: its id may be another database's, or have come round.
_SOON_S, _AT_MOST_S = 0.5, 3600.0
_ASK_AGAIN_S = 0.02
_STANDBY = "Its commit waits for a synchronous standby: SELECT * FROM pg_stat_replication"
#: A class of SQLSTATEs, and one: what is no value of the type, no row has; no such column.
_NO_VALUE, _NO_COLUMN = "22", "42703"
_key = msgspec.json.Decoder(dict[str, Any])


class FreshRows:
    """Reads rows over one connection that is opened when it is needed. Any thread may call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rules = {rule.name: settings.table_of(rule) for rule in settings.rules}
        self._altered = {table.name: {*table.hash, *table.mask} for table in settings.source.tables}
        self._types: dict[TableName, dict[str, str]] = {}
        self._connection: postgres.Connection | None = None
        self._lock = threading.Lock()

    def read(self, delivery: Delivery) -> Row | None:
        """Give the row, or None when it is gone.

        Raises DependencyDown when the database can't tell, or not yet: everyone waits, nobody's attempt is spent.
        Raises EnvelopeInvalid when the event has no key to ask by.
        """
        if delivery.key is None:
            raise EnvelopeInvalid("the event has no key", hint="`still` needs a table with a primary key")
        table = self._rules[delivery.rule]
        try:
            return self._read(table, _decode(delivery.key), delivery.envelope)
        except ServiceError as exc:
            if str(exc.fields.get("sqlstate", "")).startswith(_NO_VALUE):
                return None
            raise _unread(exc, table) from exc

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _read(self, table: TableName, key: Mapping[str, Any], event: Envelope) -> Row | None:
        """Read it as it was left by the event's transaction, or by a later one."""
        values = {
            "table": table.sql(),
            "columns": sorted(_columns(event) - self._altered[table]),
            **{f"key_{number}": value for number, value in enumerate(key.values())},
        }
        xid, until = _awaited(event), time.monotonic() + _SOON_S
        while True:
            with self._lock:
                row, seen = self._ask(table, key, values)
            if xid is None or seen.includes(xid):
                return msgspec.json.decode(row, type=Row) if row else None
            if time.monotonic() > until:
                raise RetryableError("the event's transaction is not visible yet", hint=_STANDBY)
            time.sleep(_ASK_AGAIN_S)

    def _ask(self, table: TableName, key: Mapping[str, Any], values: Mapping[str, object]) -> tuple[str | None, Seen]:
        with postgres.errors(), self._open().cursor() as cursor:
            if table not in self._types:
                cursor.execute(_TYPES, (table.sql(),))
                self._types[table] = dict(cursor.fetchall())
            cursor.execute(
                _READ.format(table=_literal(table.sql()), condition=_condition(key, self._types[table])), values
            )
            ((row, seen),) = cursor.fetchall()
        return row, Seen.parse(seen)

    def _open(self) -> postgres.Connection:
        if self._connection is None or self._connection.closed:
            dsn = self._settings.source.dsn.get_secret_value()
            self._connection = postgres.connect(dsn, application_name="pgherald still", options=_OPTIONS)
            self._connection.autocommit = True
        return self._connection


def _awaited(event: Envelope) -> int | None:
    """Give the transaction that must be visible; a row of a snapshot was, and names one that may not have begun."""
    is_new = time.time() - event.source.ts_ms / 1000 < _AT_MOST_S
    return event.source.txId if is_new and event.op != "r" else None


def _columns(envelope: Envelope) -> set[str]:
    return {*(envelope.before or {}), *(envelope.after or {})}


def _decode(key: str) -> dict[str, Any]:
    try:
        found = _key.decode(key.encode())
    except msgspec.MsgspecError as exc:
        raise EnvelopeInvalid("the event's key is no JSON object") from exc
    if not found or UNAVAILABLE in found.values():
        raise EnvelopeInvalid("the event's key names no row")
    return found


def _condition(key: Mapping[str, Any], types: Mapping[str, str]) -> str:
    """Write the comparison with the key; its values are bound, its names quoted."""
    terms = []
    for number, column in enumerate(key):
        value = _FROM_KEY.get(types.get(column, ""), "{}").format(f"%(key_{number})s")
        terms.append(f"found.{_literal(quoted(column))} = {value}")
    return " AND ".join(terms)


def _literal(name: str) -> str:
    """Keep a % in a name from being taken for a parameter."""
    return name.replace("%", "%%")


def _unread(error: ServiceError, table: TableName) -> ServiceError:
    """Say what a failed reading means."""
    if isinstance(error, EnvelopeInvalid):
        return error
    if error.fields.get("sqlstate") == _NO_COLUMN:
        return EnvelopeInvalid(f"the event's key is no longer that of {table.sql()}")
    hint = error.hint or f"`still` needs the right to read it: GRANT SELECT ON {table.sql()} TO the role of source.dsn"
    return DependencyDown(f"{table.sql()} can't be read again: {error.message}", hint=hint)
