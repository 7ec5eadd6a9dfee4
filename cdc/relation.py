"""The shape of a captured table, and of which cluster it is. Pure; catalog.py and slot.py read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cdc.contract.lsn import parse_lsn
from cdc.runtime.fields import TableName

#: Types whose values are never stored out of line; what is not named here may be.
_FIXED = frozenset(
    """
    smallint integer bigint oid boolean real money date uuid macaddr macaddr8 point lseg box line circle interval char
    name pg_lsn xid xid8 cid tid
    """.split()
) | {"double precision", *(f"{t} {z} time zone" for t in ("time", "timestamp") for z in ("with", "without"))}
_MODIFIER = re.compile(r"\(.*?\)")


def may_be_wide(base_type: str) -> bool:
    """Tell by its type alone whether a column that the catalog no longer has may be absent from an update's line."""
    return _MODIFIER.sub("", base_type) not in _FIXED


def base_type(type_name: str, domains: Mapping[str, str]) -> str:
    """Look below domains: a `posint[]` over `integer` is `integer[]`."""
    element = type_name.removesuffix("[]")
    if element != type_name:
        return base_type(element, domains) + "[]"
    below = domains.get(type_name)
    return base_type(below, domains) if below else type_name


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
    #: The transaction that added, renamed or altered it last: before, it was otherwise or not there.
    since_xid: int = 0


#: What of the old row is in the WAL (REPLICA IDENTITY): the primary key, all of it, an index's columns, nothing.
Identity = Literal["default", "full", "index", "nothing"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as it is now."""

    name: TableName
    columns: tuple[Column, ...]
    #: The primary key in the index's order; without one the columns of the replica identity's index.
    key: tuple[str, ...]
    identity: Identity = "default"
    #: The columns of the primary key's index, those of INCLUDE too: what wal2json lists as `pk`.
    primary: frozenset[str] = frozenset()
    #: Its rows lie in partitions, and the WAL names those. The identity is then the least of theirs.
    partitioned: bool = False
    #: The transaction that changed its columns last.
    changed_xid: int = 0
    #: The transaction that made its primary key.
    key_xid: int = 0
    #: Whether any value is stored out of line now.
    has_wide_values: bool = True
    #: What the domains of the database are made of.
    domains: Mapping[str, str] = field(default_factory=dict)
    #: Whether its changes are in the WAL: those of an UNLOGGED table or partition are not.
    logged: bool = True

    @property
    def full_identity(self) -> bool:
        """Whether the old row of an update or delete is in the WAL."""
        return self.identity == "full"

    @property
    def logs_old_keys(self) -> bool:
        """Whether a delete tells whose row is gone, and an update which key it had."""
        return self.identity in ("default", "full") or (self.identity == "index" and not self.primary)


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
