"""Why PostgreSQL does not give us the slot: each reason told apart, with the command that mends it. Pure."""

from __future__ import annotations

from cdc.contract.lsn import format_lsn
from cdc.runtime.errors import AccessDenied, ChangeUndecodable, ConnectionLost, ServiceError, SlotInUse, SlotLost

RECOVER = "`pgherald slot recover` makes a new slot and reads again what may be missing"
_GRANT_LARGE_OBJECTS = (
    "As a superuser, in this database: GRANT EXECUTE ON FUNCTION lo_create(oid), lo_unlink(oid) TO the role of the dsn;"
)
_INSTALL = "Install it on the database server: Debian's package is postgresql-NN-wal2json"


def not_ours(name: str, plugin: str | None, database: str | None, here: str) -> AccessDenied | None:
    """Tell why a slot is none for a reader in the database `here`; None when it is one.

    Asked before START_REPLICATION, whose own words mislead: a physical slot is "invalidated" there.
    """
    drop = f"or drop it, if nobody needs it: SELECT pg_drop_replication_slot('{name}');"
    if plugin is None:
        return AccessDenied(f"the slot {name} is a physical one", hint=f"Name another one in source.slot, {drop}")
    if plugin != "wal2json":
        what = f"the slot {name} belongs to the plugin {plugin}, not to wal2json"
        return AccessDenied(what, hint=f"Name another one in source.slot, {drop}")
    if database != here:
        what = f"the slot {name} belongs to the database {database}, and source.dsn leads to {here}"
        return AccessDenied(what, hint=f"Name another one in source.slot, or that database in source.dsn, {drop}")
    return None


def _invalidated(name: str) -> SlotLost:
    return SlotLost(
        f"the slot {name} is invalidated: WAL that it needs was removed",
        hint=f"{RECOVER}; raise max_slot_wal_keep_size, so that it does not happen again",
    )


def gone(name: str) -> SlotLost:
    """Say that the slot is not there, though it was."""
    return SlotLost(f"the slot {name} is gone", hint=RECOVER)


def cannot_create(sqlstate: str, text: str) -> ServiceError | None:
    """Tell why a slot can't be made; None when the SQLSTATE says nothing that is special to slots."""
    if "in recovery" in text:
        return in_recovery()
    if sqlstate == "55000":
        hint = "As a superuser: ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL"
        return AccessDenied("PostgreSQL's wal_level is not logical", hint=hint)
    if sqlstate == "42501" and ("lo_create" in text or "lo_unlink" in text):
        what = "PostgreSQL refuses lo_create or lo_unlink to the role; with them a new slot learns the catalog"
        return AccessDenied(what, hint=_GRANT_LARGE_OBJECTS)
    if sqlstate == "58P01":
        return AccessDenied("PostgreSQL has no wal2json", hint=_INSTALL)
    if sqlstate == "42710":
        return SlotInUse("another process made the slot just now")
    if sqlstate == "53400":
        hint = "Raise max_replication_slots and restart, or drop a slot that nobody reads (pg_replication_slots)"
        return AccessDenied("PostgreSQL has no two replication slots left, which the making of one needs", hint=hint)
    return None


def cannot_start(sqlstate: str, text: str, name: str) -> ServiceError | None:
    """Tell why an existing slot can't be read; None as in `cannot_create`."""
    if "in recovery" in text:
        return in_recovery()
    if sqlstate == "42704":
        return gone(name)
    if sqlstate == "55000":
        return _invalidated(name)
    if sqlstate == "58P01":
        return AccessDenied("PostgreSQL no longer has wal2json", hint=f"{_INSTALL}; the slot {name} waits meanwhile")
    if sqlstate == "22023":
        return AccessDenied("wal2json does not know the options that pgherald needs", hint="Update wal2json to 2.5")
    return None


def cannot_decode(sqlstate: str, name: str, read_lsn: int) -> ChangeUndecodable:
    """Say that PostgreSQL itself fails at what comes next; its words may hold values and are left out."""
    return ChangeUndecodable(
        f"PostgreSQL can't decode what comes behind {format_lsn(read_lsn)} for the slot {name}: SQLSTATE {sqlstate}",
        hint=f"Its own log says why. Start again; if it ends at the same place, {RECOVER}",
        sqlstate=sqlstate,
    )


def in_recovery() -> ConnectionLost:
    """Say that this server is a standby. It may be promoted any moment: to be tried again."""
    return ConnectionLost(
        "PostgreSQL is a standby, which has no slot to read",
        hint="Name the primary in source.dsn; with several hosts add target_session_attrs=read-write",
    )
