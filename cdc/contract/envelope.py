"""Debezium's change event envelope, without schemas: what the reader publishes and what every consumer decodes. Pure.

The shape is that of the Debezium PostgreSQL connector 3.7 with the options of DESIGN.md section 5. It only grows.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from cdc.runtime.errors import EnvelopeInvalid

#: A column whose TOASTed value did not change and so is not in the WAL: unknown, never null.
UNAVAILABLE = "__debezium_unavailable_value"

HEADER_EVENT_ID = "pgherald-event-id"
HEADER_SCHEMA = "pgherald-schema"
HEADER_NOTIFY = "pgherald-notify"
#: `1` on a delete whose `before` is the whole old row: without it, nulls may stand for what the WAL did not tell.
HEADER_OLD_ROW = "pgherald-old-row"
HEADER_NEW_KEY = "__debezium.newkey"
HEADER_OLD_KEY = "__debezium.oldkey"
#: The envelope's version that this code writes and the only one that it reads.
SCHEMA_VERSION = b"1"

#: What `source.snapshot` says of a row that was read again after a lost slot, by the reader or by `pgherald recover`.
RECOVERY = "recovery"

Op = Literal["c", "u", "d", "r", "t", "m"]
Row = dict[str, Any]


class Source(msgspec.Struct, frozen=True):
    """Where a change came from."""

    name: str
    ts_ms: int
    schema: str
    table: str
    snapshot: str = "false"
    lsn: int | None = None
    txId: int | None = None  # noqa: N815  Debezium's name


class Envelope(msgspec.Struct, frozen=True):
    """One change of one row, before and after."""

    op: Op
    source: Source
    before: Row | None = None
    after: Row | None = None
    #: Of a delete, what its header said: the ledger keeps no headers.
    old_row_whole: bool = False


_decoder = msgspec.json.Decoder(Envelope)


def decode(value: bytes) -> Envelope:
    """Read an envelope. Raises EnvelopeInvalid, which names the place of the fault and never a value."""
    try:
        return _decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise EnvelopeInvalid(f"no envelope: {exc}", length=len(value)) from exc
