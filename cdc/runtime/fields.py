"""The kinds of values that settings are made of: durations, rates, table names, paths. Pure."""

from __future__ import annotations

import re
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BeforeValidator

_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|h)")
_PART = r'"(?:[^"]|"")+"|[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*'
_TABLE = re.compile(rf"(?:(?P<schema>{_PART})\.)?(?P<table>{_PART})")

#: Where relative paths start: the folder of the settings file that is being read.
settings_folder: ContextVar[Path] = ContextVar("settings_folder", default=Path())


def quoted(identifier: str) -> str:
    """Write an identifier so that SQL reads it back."""
    return '"' + identifier.replace('"', '""') + '"'


class TableName(NamedTuple):
    """A table as PostgreSQL's catalog spells it, without quotes."""

    schema: str
    table: str

    def sql(self) -> str:
        """Write the name so that SQL reads it back."""
        return ".".join(quoted(part) for part in self)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


def parse_table(text: object) -> TableName:
    """Read a table name as SQL writes it: unquoted parts fold to lower case, the schema defaults to public."""
    if isinstance(text, TableName):
        return text
    match = _TABLE.fullmatch(str(text).strip())
    if not match:
        raise ValueError('write it as SQL does: users, app.users or public."User"')
    schema, table = (_folded(part) for part in (match["schema"] or "public", match["table"]))
    return TableName(schema, table)


def _folded(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part.lower()


def parse_duration(text: object) -> timedelta:
    """Read `250ms`, `30s`, `5m`, `24h`, `7d` or `2w`."""
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(str(text).strip())
    if not match:
        raise ValueError("write a number and a unit: 250ms, 30s, 5m, 24h, 7d or 2w")
    return timedelta(seconds=float(match[1]) * _UNIT_S[match[2]])


def duration_text(duration: timedelta) -> str:
    """Write a duration as settings do, in the largest unit up to days that fits it exactly."""
    units = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))
    ms = round(duration.total_seconds() * 1000)
    return next((f"{ms // length}{unit}" for unit, length in units if not ms % length), f"{ms}ms")


def parse_rate(text: object) -> float | None:
    """Read `14/s`, `100/m` or `1000/h` as a number per second; empty means no limit."""
    if text is None or isinstance(text, float) or str(text).strip() == "":
        return text if isinstance(text, float) else None
    match = _RATE.fullmatch(str(text).strip())
    if not match or float(match[1]) == 0:
        raise ValueError("write a number above 0 and a unit: 14/s, 100/m or 1000/h")
    return float(match[1]) / _UNIT_S[match[2]]


def _from_settings_folder(path: Path) -> Path:
    return settings_folder.get() / path.expanduser()


Table = Annotated[TableName, BeforeValidator(parse_table)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Rate = Annotated[float | None, BeforeValidator(parse_rate)]
SettingsPath = Annotated[Path, AfterValidator(_from_settings_folder)]
