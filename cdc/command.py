"""What an operator asks of a running reader, by a row of `pgherald.command` that the reader finds in the WAL. Pure.

Whoever may insert there may ask, and nobody else: logical messages, which any role may write, ask for nothing.
"""

from __future__ import annotations

import msgspec

from cdc.contract.position import Reading
from cdc.runtime.errors import PermanentError
from cdc.runtime.fields import TableName
from cdc.values import text_of
from cdc.wal2json import Insert, RowChange, Truncate

TABLE = TableName("pgherald", "command")
_MAX_CONDITION = 4000


class Command(msgspec.Struct, frozen=True):
    """A row of `pgherald.command`: for one slot's reader."""

    id: str
    slot: str
    action: str
    schema_name: str = ""
    table_name: str = ""
    condition: str = ""

    @property
    def reading(self) -> Reading:
        """The table to be read. Raises PermanentError for a condition that is none."""
        check_condition(self.condition)
        return Reading(self.schema_name, self.table_name, "incremental", self.condition)


def is_own(change: RowChange | Truncate) -> bool:
    """Tell whether a line is of the table of commands, which is never published."""
    return change.table == TABLE.table and change.schema == TABLE.schema


def read(change: RowChange | Truncate) -> Command | None:
    """Read a command from its line; None for what only tidies the table up."""
    if not isinstance(change, Insert):
        return None
    given = {column.name: bytes(column.value) for column in change.columns}
    texts = {name: text_of(token) for name, token in given.items() if token != b"null"}
    return msgspec.convert(
        {"id": "", "slot": "", "action": ""} | {n: t for n, t in texts.items() if n in Command.__struct_fields__},
        Command,
    )


def check_condition(text: str) -> None:
    """Refuse a condition that could end the expression it is put into and begin a statement. Raises PermanentError.

    It runs as the reader's role, which may do more than whoever inserted the command. What this can't read for certain
    it refuses: E'' strings, dollar quotes and comments are never needed.
    """
    if len(text) > _MAX_CONDITION:
        raise PermanentError(f"the condition is longer than {_MAX_CONDITION} characters")
    if fault := _fault(text):
        raise PermanentError(f"the condition {fault}", hint="Write one SQL expression, as it would stand behind WHERE")


def _fault(text: str) -> str:
    depth, place, before = 0, 0, " "
    while place < len(text):
        mark = text[place]
        if mark in "'\"":
            end = _closing(text, place)
            if mark == "'" and (before.isalnum() or before in "_&$"):
                return "holds a string with a prefix (E'', U&'')"
            if end < 0:
                return "holds a quote that is not closed"
            place = end
        elif mark in ";$\x00":
            return f"holds {mark!r}"
        elif text[place : place + 2] in ("--", "/*"):
            return "holds a comment"
        depth += (mark == "(") - (mark == ")")
        if depth < 0:
            return "closes a parenthesis that it did not open"
        before = mark
        place += 1
    return "" if depth == 0 else "leaves a parenthesis open"


def _closing(text: str, opening: int) -> int:
    """Find the quote that closes; a doubled one is part of the text. -1: there is none."""
    mark, place = text[opening], opening + 1
    while (place := text.find(mark, place)) >= 0 and text[place + 1 : place + 2] == mark:
        place += 2
    return place


class _Watermark(msgspec.Struct, frozen=True):
    watermark: str


_watermark = msgspec.json.Decoder(_Watermark)


def watermark(nonce: str) -> str:
    """Write the message that follows a chunk; only the reader that waits for this nonce heeds it."""
    return msgspec.json.encode(_Watermark(nonce)).decode()


def nonce_of(content: str) -> str:
    """Read the nonce of a message; empty for any other one."""
    try:
        return _watermark.decode(content).watermark
    except msgspec.MsgspecError:
        return ""
