"""The envelope's `source`, and its clock: where a change came from, and when. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from cdc import __version__

_json = msgspec.json.encode
_UNIX_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def microseconds(timestamp: str) -> int:
    """Read wal2json's commit timestamp (UTC, `+00`) as microseconds since 1970."""
    return (datetime.fromisoformat(timestamp) - _UNIX_EPOCH) // _MICROSECOND


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
    moment = Moment.of(micros, previous, xid, origin)
    return source_template(name, database, tail, snapshot) % moment.around(lsn)


class Moment(msgspec.Struct, frozen=True, gc=False):
    """What `source` says of a transaction, rendered once for all of its events."""

    ts_ms: bytes
    previous: bytes
    ts_us_ns: bytes
    xid: bytes
    origin: bytes

    @classmethod
    def of(cls, micros: int, previous: int | None, xid: int | None, origin: bytes) -> Moment:
        """Render a transaction's commit time, the commit before it, its id and origin."""
        return cls(
            b"%d" % (micros // 1000),
            b"null" if previous is None else b'\\"%d\\"' % previous,
            b'"ts_us":%d,"ts_ns":%d' % (micros, micros * 1000),
            b"null" if xid is None else b"%d" % xid,
            origin,
        )

    def around(self, lsn: int) -> tuple[bytes | int, ...]:
        """Give what a template of `source` takes."""
        return self.ts_ms, self.previous, lsn, self.ts_us_ns, self.xid, lsn, self.origin


def source_template(name: str, database: str, tail: bytes, snapshot: str) -> bytes:
    """Write what of `source` is the same in all events of a table; `Moment.around` fills it."""
    # Names may hold a percent sign.
    name_json, database_json, table = (part.replace(b"%", b"%%") for part in (_json(name), _json(database), tail))
    return (
        b'{"version":"%b","connector":"postgresql","name":%b,"ts_ms":%%b,"snapshot":"%b","db":%b,'
        b'"sequence":"[%%b,\\"%%d\\"]",%%b,%b,"txId":%%b,"lsn":%%d,"xmin":null,"origin":%%b,"origin_lsn":null}'
    ) % (__version__.encode(), name_json, snapshot.encode(), database_json, table)
