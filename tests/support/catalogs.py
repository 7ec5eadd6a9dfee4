"""A catalog that says what a test wants it to say."""

from __future__ import annotations

from cdc.catalog import Altered, Catalog, Place
from cdc.contract.xid import Seen
from cdc.partitions import Partitions
from cdc.relation import Relation
from cdc.rows import plan
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Source
from cdc.tables import CapturedTables


class SaidCatalog(Catalog):
    """What is set is what is found; `asked` counts how often a shape was read."""

    def __init__(self, *relations: Relation) -> None:
        self.relations = {relation.name: relation for relation in relations}
        self.parts: dict[TableName, TableName] = {}
        #: Who altered a table last; with a tuple, all of its columns too.
        self.altered: dict[TableName, int | tuple[int, int]] = {}
        self.next_xid = 10
        self.asked = 0

    def seen(self, xid: int | None = None) -> Seen:
        self.next_xid = max(self.next_xid, (xid or 0) + 1)
        return Seen(self.next_xid)

    def relation(self, name: TableName) -> Relation | None:
        self.asked += 1
        return self.relations.get(name)

    def root(self, name: TableName) -> tuple[TableName | None, Altered]:
        self.asked += 1
        return self.parts.get(name), self._altered(name)

    def partitions(self, root: TableName) -> dict[TableName, Altered]:
        return {part: self._altered(part) for part, of in self.parts.items() if of == root}

    def _altered(self, name: TableName) -> Altered:
        altered = self.altered.get(name)
        if altered is None and name not in self.parts:
            return Altered()
        return Altered(*altered) if isinstance(altered, tuple) else Altered(altered or 3, 3)

    def places(self, names: list[TableName]) -> dict[TableName, Place]:
        return {name: Place(1, self.relations[name].partitioned) for name in names if name in self.relations}

    def name_of(self, oid: int) -> TableName | None:
        return None


def captured(source: Source, catalog: SaidCatalog, read_again: set[str] | None = None) -> CapturedTables:
    """Make the tables of a reader that starts now."""
    roots = [name for name, relation in catalog.relations.items() if relation.partitioned]
    plans = [plan(source, table, catalog.relations[table.name]) for table in source.tables]
    partitions = Partitions(catalog, roots, [], lambda _: None)
    return CapturedTables(
        source, catalog, partitions, plans, set() if read_again is None else read_again, wide=bool(roots)
    )
