"""What preflight says of a server's settings. Pure: source.py asks, this judges."""

from __future__ import annotations

from collections.abc import Iterator

from cdc.preflight.managed import Server
from cdc.runtime.findings import Finding

#: wal_status and safe_wal_size, by which a loss is seen coming, are PostgreSQL 13's.
_OLDEST = 130_000


def look(server: Server, *, slots: int, walsenders: int, slot_exists: bool) -> Iterator[Finding]:
    """Judge the settings; `slots` and `walsenders` are in use now."""
    if server.provider:
        yield Finding("ok", f"this is {server.provider.name}: settings are changed in {server.provider.where}")
    if int(server.settings["server_version_num"]) < _OLDEST:
        why = "its slots do not tell how far they are from loss"
        yield Finding("fault", "PostgreSQL is older than 13", why, "upgrade PostgreSQL")
    yield from _wal(server)
    if (encoding := server.settings["server_encoding"]) != "UTF8":
        why = "wal2json writes its bytes into JSON as they are"
        yield Finding("fault", f"the database is {encoding}, not UTF8", why, "make a UTF8 database and move the tables")
    yield from _room(server, slots, walsenders, slot_exists)


def _wal(server: Server) -> Iterator[Finding]:
    if (level := server.settings["wal_level"]) == "logical":
        yield Finding("ok", "wal_level is logical")
    else:
        remedy = server.change("wal_level", "logical", restart=True)
        yield Finding("fault", f"wal_level is {level}", "the WAL holds no rows to decode", remedy)
    if server.settings["max_slot_wal_keep_size"] == "-1":
        why = "a reader that is down for long lets the WAL fill the disk, which stops the database"
        remedy = server.change("max_slot_wal_keep_size", "'20GB'") + " and watch pgherald_slot_safe_wal_bytes"
        yield Finding("warning", "the WAL that a slot holds back has no limit", why, remedy)


def _room(server: Server, slots: int, walsenders: int, slot_exists: bool) -> Iterator[Finding]:
    most = int(server.settings["max_replication_slots"])
    if slots + 2 > most and not slot_exists:
        what = f"{slots} of {most} replication slots are taken"
        remedy = server.change("max_replication_slots", str(most + 4), restart=True)
        yield Finding("fault", what, "capture needs two to make its own", f"{remedy}; or drop one that nobody reads")
    most = int(server.settings["max_wal_senders"])
    if walsenders + 2 > most:
        what = f"{walsenders} of {most} max_wal_senders are taken"
        why = "capture streams through one, and its hot standby asks through another"
        remedy = server.change("max_wal_senders", str(most + 4), restart=True)
        yield Finding("fault" if walsenders >= most else "warning", what, why, remedy)
