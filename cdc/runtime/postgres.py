"""Connections to PostgreSQL, and the one table from SQLSTATE to our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import connection

from cdc.runtime.errors import AccessDenied, ConnectionLost, RetryableError, ServiceError, SlotInUse, SlotLost

Connection = connection

#: A peer that vanished without a word is noticed in about a minute (libpq's keepalives), a hanging connect in ten
#: seconds.
_TRANSPORT: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 4,
    "tcp_user_timeout": 60_000,
    "gssencmode": "disable",  # else libpq loads Kerberos on every connection; a DSN that needs it says so
}
#: SQLSTATEs (and, with two letters, classes) after which the same statement may succeed on a new connection. The last
#: two: a session that was idle for too long, or in a transaction.
_LOST = ("08", "53", "57P01", "57P02", "57P03", "57P05", "25P03")
#: Deadlock, serialization failure, lock not available, query cancelled: the transaction is to be run again.
_AGAIN = ("40", "55P03", "57014")
_REFUSED = ("28", "42501", "3D000")
#: Of a client's certificate: the server's words, TLS's, and libpq's of files that can't be used.
_OWN_CERTIFICATE = ("valid client certificate", "alert unknown ca", "alert bad cert", "certificate file", "private key")
#: Errors of a connection attempt carry no SQLSTATE in psycopg2: the server's words are all there is.
_REFUSED_AT_LOGIN = (
    "authentication failed",
    "does not exist",
    "is not permitted to log in",
    "must be superuser or replication role",
    "no password supplied",
    "pg_hba.conf",  # has no entry for us, or rejects us
    "permission denied",
    "unsupported startup parameter",  # PgBouncer's words
    *("certificate verify failed", "server certificate for", "server does not support SSL", "root certificate file"),
    *_OWN_CERTIFICATE,
)


def connect(dsn: str, *, application_name: str, **options: Any) -> Connection:
    """Open a connection. Raises ConnectionLost when the server is not there, AccessDenied when it refuses us.

    What the DSN says of a parameter wins over our transport defaults.
    """
    given = psycopg2.extensions.parse_dsn(dsn)
    with errors():
        opened: Connection = psycopg2.connect(
            **{**_TRANSPORT, **given, "application_name": application_name, **options}
        )
        return opened


@contextmanager
def errors() -> Iterator[None]:
    """Turn psycopg2's errors into ours, `from` the cause."""
    try:
        yield
    except psycopg2.Error as exc:
        raise classify(exc) from exc


def classify(exc: psycopg2.Error) -> ServiceError:
    """Tell what a driver's error means for us; the text is the server's, first line only (details may hold values)."""
    code = exc.pgcode or ""
    text = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
    if code == "55006":
        return SlotInUse("another process reads the slot", sqlstate=code)
    if code.startswith(_REFUSED) or (not code and _refused_at_login(text)):
        return AccessDenied(f"PostgreSQL refuses: {text}", hint=_login_hint(text), sqlstate=code)
    if code.startswith(_AGAIN):
        return RetryableError(f"PostgreSQL asks to try again: {text}", sqlstate=code)
    if code.startswith(_LOST) or (not code and isinstance(exc, (psycopg2.OperationalError, psycopg2.InterfaceError))):
        return ConnectionLost(f"PostgreSQL is not reachable: {text}", hint=_lost_hint(text), sqlstate=code)
    if not code and ("PGRES_COPY_BOTH" in text or "no COPY in progress" in str(exc)):
        # psycopg2's words for a walsender that went away (its issue 713)
        return ConnectionLost("PostgreSQL ended the replication stream", sqlstate=code)
    if code in ("55000", "42704"):
        return SlotLost(f"the slot can't be read: {text}", sqlstate=code)
    what = f"PostgreSQL: SQLSTATE {code or 'none'} ({type(exc).__name__})"
    return _Unclassified(what, hint="PostgreSQL's own log says what it was", sqlstate=code)


def _lost_hint(text: str) -> str:
    if "max_wal_senders" in text:
        return "Raise max_wal_senders and restart PostgreSQL, or end a replication connection that nobody needs"
    return ""


class _Unclassified(ServiceError):
    """A statement of ours failed in a way that no one foresaw; the server's text may hold values and is left out."""


def _refused_at_login(text: str) -> bool:
    return any(words in text for words in _REFUSED_AT_LOGIN)


#: What mends the refusal of PostgreSQL's minor releases of 2026; the list is unquoted: a quoted string is one element.
ALLOW_PLUGIN = "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json; SELECT pg_reload_conf();"


#: A pooler pins no session and (before PgBouncer 1.23) carries no replication.
AROUND_POOLER = "Name PostgreSQL itself in the dsn, not PgBouncer or another pooler (its port is usually 5432)"


def _login_hint(text: str) -> str:
    if "root certificate" not in text and any(words in text for words in (*_OWN_CERTIFICATE, "certificate auth")):
        return (
            "Name in the dsn a certificate that PostgreSQL takes for this role, and its key (sslcert=FILE sslkey=FILE)"
        )
    if "certificate" in text:
        return "Name in the dsn who signed the server's certificate (sslrootcert=FILE) and the host as it stands there"
    if "does not support SSL" in text:
        return "Set ssl = on in PostgreSQL, with a certificate, or say in the dsn what you accept (sslmode)"
    if "unsupported startup parameter" in text:
        return AROUND_POOLER
    if "may not be used as an output plugin" in text:
        return f"As a superuser: {ALLOW_PLUGIN}"
    if "replication role" in text:
        return "As a superuser: ALTER ROLE the role of the dsn REPLICATION;"
    if "pg_hba.conf" in text:
        return "Add a line to pg_hba.conf that lets this role in from this host, and reload"
    if "password" in text:
        return "Check the user and password of the dsn (a password file: passfile=PATH in the dsn)"
    return "See `pgherald preflight` for the statement that mends it"
