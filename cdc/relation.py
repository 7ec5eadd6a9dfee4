"""The shape of a captured table, and of which cluster it is. Pure; catalog.py and slot.py read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.contract.position import parse_lsn
from cdc.runtime.fields import TableName


@dataclass(frozen=True, slots=True)
class Column:
    """A column as it is now."""

    name: str
    #: As format_type() writes it, and so as wal2json does.
    type: str
    #: The type below its domains, which decides how values are rendered.
    base_type: str
    #: Its values may be stored out of line, and then be absent from an update's line.
    toastable: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as it is now."""

    name: TableName
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    #: REPLICA IDENTITY FULL: the old row of an update or delete is in the WAL.
    full_identity: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which PostgreSQL this is, and which history it has: LSNs mean nothing in another one."""

    system_id: str
    timeline: int
    database: str
    #: Where its WAL ends.
    end_lsn: int
    #: The timelines that it descends from, each with the LSN at which this history left it.
    left_lsn: Mapping[int, int] = field(default_factory=dict)


def read_history(content: str) -> dict[int, int]:
    """Read a timeline history file: `parent TAB LSN TAB reason`, one line an ancestor (src: timeline.c)."""
    lines = (line.split("#")[0].split("\t") for line in content.splitlines())
    return {int(fields[0]): parse_lsn(fields[1]) for fields in lines if len(fields) > 1}
