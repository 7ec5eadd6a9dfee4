"""How preflight asks PostgreSQL."""

from __future__ import annotations

from typing import Any

from cdc.runtime import postgres


def one(connection: postgres.Connection, query: str, values: tuple[object, ...] = (), *, fetch: bool = True) -> Any:
    """Run a query of one value; None when it has no row."""
    with connection.cursor() as cursor:
        cursor.execute(query, values or None)
        row = cursor.fetchone() if fetch else None
    return row[0] if row else None
