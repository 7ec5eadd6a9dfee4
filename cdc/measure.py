"""Measures the slot: how far behind it is and how far from loss; says so before it is lost."""

from __future__ import annotations

import math
import time
from contextlib import closing
from typing import Any

from cdc import start
from cdc.runtime import metrics, postgres
from cdc.runtime.errors import ServiceError
from cdc.runtime.lifecycle import Stop
from cdc.runtime.log import get_logger
from cdc.runtime.settings import Settings

_STATUS = """
    SELECT slot_name, plugin, active, wal_status, confirmed_flush_lsn::text,
           pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,
           pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, safe_wal_size
    FROM pg_replication_slots WHERE slot_name = %s
"""
_FIELDS = ("slot", "plugin", "active", "wal_status", "confirmed_lsn", "lag_bytes", "retained_bytes", "safe_wal_bytes")
#: A copy of the slot, which goes with the session, can be looked into while a reader holds the slot itself.
_COPY = "SELECT pg_copy_logical_replication_slot(%s, 'pgherald_status_' || pg_backend_pid(), true)"
#: The first transaction that is not confirmed; its rows are filtered away, its B says when it was committed.
_AGE = """
    SELECT extract(epoch FROM clock_timestamp() - (data::jsonb ->> 'timestamp')::timestamptz)::float8
    FROM pg_logical_slot_peek_changes('pgherald_status_' || pg_backend_pid(), NULL, 1,
        'format-version', '2', 'include-timestamp', '1', 'add-tables', 'pg_catalog.none') LIMIT 1
"""
_AGE_WITHIN_S = 5
_MEASURE_EVERY_S = 10.0
_REPEAT_S = 300.0
#: What a slot without a limit holds back before that is worth a warning: the disk is its limit.
_MUCH_BYTES = 10 * 1024**3
_log = get_logger("slot")


def read(settings: Settings, *, age: bool = False) -> dict[str, Any]:
    """Ask PostgreSQL how the slot is; with `age` also how old the first change is that is not confirmed."""
    name = settings.source.slot
    with closing(start.connect(settings)) as connection:
        row = _row(connection, _STATUS, name)
        if row is None:
            return {"slot": name, "wal_status": "missing"}
        found = dict(zip(_FIELDS, row, strict=True))
        if age:
            found["lag_seconds"] = _age_s(connection, name)
    return found


def _row(connection: postgres.Connection, query: str, *values: str) -> tuple[Any, ...] | None:
    with postgres.errors(), closing(connection.cursor()) as cursor:
        cursor.execute(query, values or None)
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row


def _age_s(connection: postgres.Connection, name: str) -> float | None:
    """Tell the age of the oldest commit that is not confirmed; None where that can't be asked, or not soon enough."""
    try:
        _row(connection, f"SELECT set_config('statement_timeout', '{_AGE_WITHIN_S}s', false)")
        _row(connection, _COPY, name)
        row = _row(connection, _AGE)
    except ServiceError as exc:
        _log.info("lag_not_measured", why=str(exc))
        return None
    return round(row[0], 3) if row else 0.0


def danger(found: dict[str, Any]) -> str:
    """Tell what threatens the slot, with what to do; empty when nothing does."""
    safe, retained = found.get("safe_wal_bytes"), found.get("retained_bytes") or 0
    start_it = "start `pgherald capture`, or see in its log what holds it up"
    if found["wal_status"] == "lost":
        return "the slot is lost: `pgherald slot recover`"
    if found["wal_status"] == "unreserved":
        return f"the next checkpoint may remove WAL that the slot needs: {start_it}"
    if safe is not None and safe < retained:
        return f"half of the WAL that max_slot_wal_keep_size allows is used: {start_it}"
    if safe is None and retained > _MUCH_BYTES:
        return f"the slot holds back WAL without a limit, and the disk may fill: {start_it}"
    return ""


def run(settings: Settings, stop: Stop) -> None:
    """Keep the slot's gauges up to date until a stop is requested; warn while the slot is in danger."""
    warned_at = -math.inf
    while not stop.requested:
        try:
            found = read(settings)
        except ServiceError as exc:
            _log.info("slot_not_measured", why=str(exc))
        else:
            _set_gauges(found)
            warning = danger(found)
            if warning and time.monotonic() - warned_at > _REPEAT_S:
                _log.warning("slot_in_danger", why=warning, **found)
                warned_at = time.monotonic()
        stop.wait(_MEASURE_EVERY_S)


def _set_gauges(found: dict[str, Any]) -> None:
    safe = found.get("safe_wal_bytes")
    metrics.slot_lag_bytes.set(found.get("lag_bytes") or 0)
    # Null where no limit is set (max_slot_wal_keep_size = -1), the disk being the limit; and for a lost slot.
    unknown = 0 if found["wal_status"] == "lost" else math.inf
    metrics.slot_safe_wal_bytes.set(unknown if safe is None else safe)
