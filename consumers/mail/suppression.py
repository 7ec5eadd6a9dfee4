"""Addresses that get no mail, and why: they bounced, complained or unsubscribed. The list is a table of the ledger's.

It holds hashes: an address that was removed everywhere else is not kept here in clear, and is still known again.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cdc.runtime import postgres
from cdc.runtime.errors import FatalError, ServiceError
from consumers import queries
from consumers.mail.message import Address
from consumers.together import Together

BOUNCE, COMPLAINT, UNSUBSCRIBE = REASONS = ("bounce", "complaint", "unsubscribe")
#: An essential mail is sent to who unsubscribed from the others, and to nobody where it would only do harm.
ESSENTIAL_TOO = frozenset((BOUNCE, COMPLAINT))

_SQL = queries.load("mail/suppression.sql")
#: SQLSTATEs of a table or a schema that is not there.
_NO_LEDGER = ("42P01", "3F000")

Row = dict[str, Any]


def address_hash(address: Address) -> str:
    """Hash an address. Ada@ and ada@ are one: a relay may tell them apart, and hardly anyone does."""
    return hashlib.sha256(address.recipient.lower().encode()).hexdigest()


class Suppression:
    """The list, over one connection that any thread may use. Raises what PostgreSQL's errors mean."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._connection: postgres.Connection | None = None
        self._reasons: Together[str, set[str]] = Together(self._reasons_of, set())

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def holds(self, hashed: str, *, essential: bool) -> bool:
        """Tell whether an address gets no mail; who only unsubscribed gets essential ones."""
        reasons = self._reasons(hashed)
        return bool(reasons & ESSENTIAL_TOO if essential else reasons)

    def _reasons_of(self, hashes: Sequence[str]) -> dict[str, set[str]]:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for row in self._ask("reasons", hashes=list(hashes)):
            found[row["address_hash"]].add(row["reason"])
        return found

    def add(self, hashes: Sequence[str], reason: str, source: str) -> int:
        """Put addresses on the list; tell how many were not on it for this reason."""
        return len(self._ask("add", hashes=list(hashes), reason=reason, source=source))

    def remove(self, hashes: Sequence[str] | None, reason: str | None = None, since: datetime | None = None) -> int:
        """Take entries off the list; tell how many."""
        return len(self._ask("remove", hashes=_listed(hashes), reason=reason, since=since))

    def find(
        self,
        hashes: Sequence[str] | None = None,
        reason: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """List entries, newest first."""
        return self._ask("find", hashes=_listed(hashes), reason=reason, since=since, limit=limit)

    def _ask(self, name: str, **values: object) -> list[Row]:
        """Run one statement as a transaction of its own."""
        try:
            with self._lock, postgres.errors(), self._open().cursor() as cursor:
                cursor.execute(_SQL[name], values)
                names = [column.name for column in cursor.description or ()]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except ServiceError as exc:
            if exc.fields.get("sqlstate") in _NO_LEDGER:
                raise FatalError("the ledger has no suppression list yet", hint="pgherald ledger migrate") from exc
            raise

    def _open(self) -> postgres.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = postgres.connect(self._dsn, application_name="pgherald suppression")
            self._connection.autocommit = True
        return self._connection


def _listed(hashes: Sequence[str] | None) -> list[str] | None:
    return None if hashes is None else list(hashes)
