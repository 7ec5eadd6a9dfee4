"""The envelope's `source`, and its clock: where a change came from, and when. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec

from cdc import __version__

_json = msgspec.json.encode
_UNIX_EPOCH, _SECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(seconds=1)


def microseconds(timestamp: str) -> int:
    """Read wal2json's commit timestamp (UTC, `+00`) as microseconds since 1970."""
    second, _, fraction = timestamp.removesuffix("+00").partition(".")
    return _seconds(second) * 1_000_000 + int(fraction.ljust(6, "0"))


@lru_cache(maxsize=2)
def _seconds(second: str) -> int:
    """Read a second, which most commits share with the one before them."""
    return (datetime.fromisoformat(second).replace(tzinfo=UTC) - _UNIX_EPOCH) // _SECOND


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
    moment = Moment(micros, previous, xid, origin)
    return source_template(name, database, tail, snapshot) % tuple(moment.around(b"%d" % lsn))


class Moment:
    """What `source` says of a transaction, rendered once for all of its events."""

    __slots__ = ("_origin", "_previous", "_ts_ms", "_ts_us_ns", "xid")

    def __init__(self, micros: int, previous: int | None, xid: int | None, origin: bytes) -> None:
        """Render a transaction's commit time, the commit before it, its id and origin."""
        self._ts_ms = b"%d" % (micros // 1000)
        self._previous = b"null" if previous is None else b'\\"%d\\"' % previous
        self._ts_us_ns = b'"ts_us":%d,"ts_ns":%d' % (micros, micros * 1000)
        self.xid = b"null" if xid is None else b"%d" % xid
        self._origin = origin

    def around(self, lsn: bytes) -> list[bytes]:
        """Give what a template of `source` takes."""
        return [self._ts_ms, self._previous, lsn, self._ts_us_ns, self.xid, lsn, self._origin]


def source_template(name: str, database: str, tail: bytes, snapshot: str) -> bytes:
    """Write what of `source` is the same in all events of a table; `Moment.around` fills it."""
    # Names may hold a percent sign.
    name_json, database_json, table = (part.replace(b"%", b"%%") for part in (_json(name), _json(database), tail))
    return (
        b'{"version":"%b","connector":"postgresql","name":%b,"ts_ms":%%b,"snapshot":"%b","db":%b,'
        b'"sequence":"[%%b,\\"%%b\\"]",%%b,%b,"txId":%%b,"lsn":%%b,"xmin":null,"origin":%%b,"origin_lsn":null}'
    ) % (__version__.encode(), name_json, snapshot.encode(), database_json, table)
