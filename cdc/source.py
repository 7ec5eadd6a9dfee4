"""The envelope's `source`, and its clock: where a change came from, and when. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from cdc import __version__

_json = msgspec.json.encode
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(timestamp: str) -> int:
    """Read wal2json's commit timestamp (UTC, `+00`) as microseconds since 1970."""
    since = datetime.fromisoformat(timestamp + ":00") - _UNIX_EPOCH
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def clock_json(now_ns: int) -> bytes:
    """Write when the reader made the envelope."""
    return b'"ts_ms":%d,"ts_us":%d,"ts_ns":%d' % (now_ns // 1_000_000, now_ns // 1_000, now_ns)


def source_json(
    name: str,
    database: str,
    tail: bytes,
    *,
    micros: int,
    snapshot: str,
    sequence: tuple[int | None, int],
    xid: int | None,
    origin: bytes = b"null",
) -> bytes:
    """Write the envelope's `source`; `tail` is the rendered schema and table. wal2json tells no origin_lsn."""
    previous, lsn = sequence
    frame = source_frame(
        name, database, tail, micros=micros, snapshot=snapshot, previous=previous, xid=xid, origin=origin
    )
    return frame % (lsn, lsn)


def source_frame(
    name: str,
    database: str,
    tail: bytes,
    *,
    micros: int,
    snapshot: str,
    previous: int | None,
    xid: int | None,
    origin: bytes,
) -> bytes:
    """Write all of `source` but its LSN, which stands in it twice: `frame % (lsn, lsn)`."""
    order = b"null" if previous is None else b'\\"%d\\"' % previous
    # Names may hold a percent sign.
    fixed = (_json(name), _json(database), tail, origin)
    name_json, database_json, table, origin_json = (part.replace(b"%", b"%%") for part in fixed)
    return (
        b'{"version":"%b","connector":"postgresql","name":%b,"ts_ms":%d,"snapshot":"%b","db":%b,'
        b'"sequence":"[%b,\\"%%d\\"]","ts_us":%d,"ts_ns":%d,%b,"txId":%b,"lsn":%%d,"xmin":null,"origin":%b,'
        b'"origin_lsn":null}'
    ) % (
        __version__.encode(),
        name_json,
        micros // 1000,
        snapshot.encode(),
        database_json,
        order,
        micros,
        micros * 1000,
        table,
        b"null" if xid is None else b"%d" % xid,
        origin_json,
    )
