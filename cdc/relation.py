"""The shape of a captured table, and of which cluster it is. Pure; catalog.py and slot.py read them."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Which PostgreSQL this is: LSNs mean nothing in another one."""

    system_id: str
    timeline: int
    database: str
