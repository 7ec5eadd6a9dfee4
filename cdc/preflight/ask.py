"""How preflight asks PostgreSQL, and what it changes there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from cdc.runtime import postgres

#: A statement that waits for its lock lets every later one of the application wait behind it.
_PATIENCE = "SET lock_timeout = '3s'"


def one(connection: postgres.Connection, query: str, values: tuple[object, ...] = ()) -> Any:
    """Run a query of one value; None when it has no row."""
    with connection.cursor() as cursor:
        cursor.execute(query, values or None)
        row = cursor.fetchone()
    return row[0] if row else None


def statements(connection: postgres.Connection, *texts: str) -> Callable[[], None]:
    """Make a fix of statements, one after the other; it raises what PostgreSQL says to them."""

    def fix() -> None:
        with postgres.errors(), closing(connection.cursor()) as cursor:
            for text in (_PATIENCE, *texts):
                cursor.execute(text)

    return fix
