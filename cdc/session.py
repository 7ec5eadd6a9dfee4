"""How every session on the source is pinned, whatever its role or database says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from cdc.runtime import postgres
from cdc.wal2json import SESSION

#: Types and tables of the user are named with their schema, whatever the role's search_path is.
_PINNED = {
    **SESSION,
    "search_path": "pg_catalog",
    "client_encoding": "UTF8",
    # What a role or database sets for its web requests would cut a snapshot short ...
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "0",
    # ... what it forbids them would keep watermarks and commands out of the WAL ...
    "default_transaction_read_only": "off",
    # ... a watermark would wait for a synchronous standby that is away, or for the WAL writer ...
    "synchronous_commit": "local",
    # ... and row security would leave rows out of it in silence: this makes it an error.
    "row_security": "off",
    "standard_conforming_strings": "on",  # an operator's SQL is checked as this reads it
}
#: Limits that not every server knows, and since which version. One would end the reader's idle session, the other a
#: large transaction while it is decoded, again and again.
_LIMITS = {"idle_session_timeout": 140_000, "transaction_timeout": 170_000}


def session_options(extra: Mapping[str, str] | None = None) -> str:
    """Write libpq's `options` that pin a session, so that values always come as the same text."""
    pinned = {**_PINNED, **(extra or {})}
    return " ".join(f"-c {name}={value}" for name, value in pinned.items())


def lift_limits(connection: postgres.Connection) -> None:
    """Let a session last, whatever its role or database says of sessions: `session_options` can't name these limits."""
    known = [f"SET {name} = 0" for name, since in _LIMITS.items() if connection.server_version >= since]
    if known:
        with postgres.errors(), closing(connection.cursor()) as cursor:
            cursor.execute("; ".join(known))
