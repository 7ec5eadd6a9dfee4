"""One line of wal2json, format version 2, to a typed change. Pure.

Values stay the bytes that they came as (`msgspec.Raw`): numbers keep their digits, and nothing is decoded in vain.
Source of the format: wal2json 2.5 and 2.6, README "Options" and output on PostgreSQL 15.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from cdc.runtime.errors import ChangeUndecodable

#: The plugin's options that decoding depends on; `add-tables` comes with the settings.
OPTIONS = {
    "format-version": "2",
    "include-transaction": "1",  # B and C frame a transaction: the acknowledgement hangs on C
    "include-lsn": "1",
    "include-xids": "1",
    "include-timestamp": "1",
    "include-pk": "1",
    "include-origin": "1",
}
#: What the walsender's session is pinned to: wal2json writes values with the output functions of their types.
SESSION = {
    "bytea_output": "hex",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",  # type names are compared with the catalog's
}


class Column(msgspec.Struct, frozen=True, gc=False):
    """A column's name, type as format_type() writes it, and value as JSON."""

    name: str
    type: str
    value: msgspec.Raw


class KeyColumn(msgspec.Struct, frozen=True, gc=False):
    """A column of the primary key."""

    name: str


class Begin(msgspec.Struct, frozen=True, gc=False, tag_field="action", tag="B"):
    """A transaction begins; `nextlsn` is its end LSN, known from here on."""

    xid: int
    timestamp: str
    nextlsn: str
    #: The id of the replication origin that it was committed under; 0 is none.
    origin: int = 0


class Commit(msgspec.Struct, frozen=True, gc=False, tag_field="action", tag="C"):
    """The transaction ends."""

    xid: int
    nextlsn: str


class RowChange(msgspec.Struct, frozen=True):
    """A row was written. An update's `columns` lack unchanged TOASTed values; `identity` is the old key or old row."""

    lsn: str
    schema: str
    table: str
    columns: list[Column] = []
    identity: list[Column] = []
    pk: list[KeyColumn] = []


class Insert(RowChange, frozen=True, tag_field="action", tag="I"):
    """A new row."""


class Update(RowChange, frozen=True, tag_field="action", tag="U"):
    """A changed row."""


class Delete(RowChange, frozen=True, tag_field="action", tag="D"):
    """A row that is gone."""


class Truncate(msgspec.Struct, frozen=True, tag_field="action", tag="T"):
    """A table was emptied."""

    lsn: str
    schema: str
    table: str


class Message(msgspec.Struct, frozen=True, tag_field="action", tag="M"):
    """A logical message; a non-transactional one stands outside of transactions, at its own end LSN."""

    lsn: str
    transactional: bool
    prefix: str
    raw: msgspec.Raw = msgspec.field(name="content")

    @property
    def content_bytes(self) -> bytes:
        """The content: any bytes, of which wal2json writes those before the first NUL."""
        # Each byte as a character of its own: only what JSON escapes is undone, and that is ASCII.
        text: str = msgspec.json.decode(bytes(self.raw).decode("latin-1"))
        return text.encode("latin-1")

    @property
    def content(self) -> str:
        """The content as text: what is none is replaced."""
        return self.content_bytes.decode(errors="replace")

    @property
    def alone(self) -> bool:
        """Whether it stands outside of transactions: it was sent when it was written, whatever became of its own."""
        return not self.transactional


Change = Begin | Insert | Update | Delete | Truncate | Message | Commit

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Change)

#: A type in a schema whose name needs quotes: wal2json 2.5 and 2.6 take them for those of JSON and write the name bare.
_BARE_TYPE = re.compile(rb',"type":("(?:[^"]|"")+"\..+?)(?=,"value":|\}[,\]])')

#: What stands before a row's values: only names and numbers, of which the last ones are the table's.
_TABLE = re.compile(rb'\{(?:"\w+":(?:"[^"]*"|\d+),)*"schema":"((?:[^"\\]|\\.)*)","table":"((?:[^"\\]|\\.)*)"')


def decode(line: bytes) -> Change:
    """Read one line. Raises ChangeUndecodable, which tells its length and hash, never what it says."""
    change: Change
    try:
        try:
            change = _decoder.decode(line)
        except msgspec.MsgspecError:
            change = _decoder.decode(_BARE_TYPE.sub(_quote_type, line))
        if not line.isascii() and isinstance(change, RowChange):
            line.decode()  # values are taken as they come, and those of a database that is not UTF8 are no JSON
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        title = _title(line)
        raise ChangeUndecodable(
            f"a wal2json line{title and f' of {title}'} can't be read", table=title, **fingerprint(line)
        ) from exc
    return change


def fingerprint(line: bytes) -> dict[str, Any]:
    """Tell which line it was without telling what it says."""
    return {"length_bytes": len(line), "sha256": hashlib.sha256(line).hexdigest()}


def _title(line: bytes) -> str:
    """Find the table of a line, which stands before every value; nothing where it says none."""
    found = _TABLE.match(line)
    return b".".join(found.groups()).decode(errors="replace") if found else ""


def _quote_type(match: re.Match[bytes]) -> bytes:
    return b',"type":' + msgspec.json.encode(match[1].decode())
