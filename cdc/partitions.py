"""Which captured partitioned table the rows of a table belong to, at the moment of each row.

wal2json names the part that a row lies in, and parts come, go and change their names while rows are under way. What the
catalog says holds for the transactions that it saw; for rows of later ones it is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from cdc.catalog import Altered, Catalog
from cdc.contract.position import Part
from cdc.contract.xid import NOTHING_SEEN, Seen, is_before
from cdc.runtime.fields import TableName
from cdc.runtime.log import get_logger

_log = get_logger("capture")
#: Tables that are no parts are forgotten above this: a database may make new names for ever.
_MAX_OTHERS = 10_000


class _Known(NamedTuple):
    """What is known of one table for the transactions that were `seen`."""

    now: TableName | None
    #: Where it belonged when the catalog was asked before.
    was: TableName | None
    altered: Altered
    seen: Seen
    #: What was seen when it was first found where it is now.
    first_seen: Seen

    def root(self, xid: int) -> TableName | None:
        """Tell where its rows belong in a transaction: a part that went was one until somebody altered it."""
        went_later = self.altered.xid is None or is_before(xid, self.altered.xid)
        return self.now or (self.was if went_later else None)

    def may_have_been_part(self, xid: int) -> bool:
        """Tell whether it may have been one when nobody looked: it is gone, another one, or was detached since."""
        if self.now or self.was:
            return False
        return self.altered.columns_xid is None or is_before(xid, self.altered.columns_xid)


class Partitions:
    """Finds the roots of parts; remembers those that it saw, also over restarts by what `remember` is given."""

    def __init__(
        self,
        catalog: Catalog,
        roots: Iterable[TableName],
        recorded: Iterable[Part],
        remember: Callable[[tuple[Part, ...]], None],
    ) -> None:
        self._catalog = catalog
        self._roots = frozenset(roots)
        self._remember = remember
        self._known: dict[TableName, _Known] = {}
        if self._roots:
            self._begin(recorded)

    def _begin(self, recorded: Iterable[Part]) -> None:
        """Take the parts of now, and those that the last process knew: their rows may still be under way."""
        seen = self._catalog.seen()
        before = {TableName(part.schema, part.table): TableName(part.root_schema, part.root_table) for part in recorded}
        now = {part for root in self._roots for part in self._catalog.partitions(root)}
        for part in now | before.keys():
            known = self._learn(part, before.get(part), seen)
            if known.now and known.now == known.was:
                self._known[part] = known._replace(first_seen=NOTHING_SEEN)
        self._record()

    def root_of(self, name: TableName, xid: int) -> TableName | None:
        """Find where a table's rows belong in a transaction; None where they are not captured."""
        if not self._roots:
            return None
        known = self._known.get(name)
        if known is None or not known.seen.includes(xid):
            known = self._ask(name, known.now if known else None, xid)
        return known.root(xid)

    def may_have_been_part(self, name: TableName, xid: int) -> bool:
        """Tell whether a table that is no part may have been one in a transaction; `root_of` was asked before."""
        known = self._known.get(name)
        return known is not None and known.may_have_been_part(xid)

    def find_renamed(self, name: TableName, root: TableName, xid: int) -> bool:
        """Take a name that is gone for the former one of a part, where a part was there then and was altered since.

        Only a part that was never met under the name that it has now can have had another one.
        """
        for part, altered in self._catalog.partitions(root).items():
            met = self._known.get(part)
            had_it_then = met is not None and not met.first_seen.includes(altered.xid or 0)
            if not had_it_then and is_before(xid, altered.xid or 0) and not is_before(xid, altered.columns_xid or 0):
                _log.info("partition_renamed", partition=str(name), renamed_to=str(part), table=str(root))
                self._known[name] = self._known[name]._replace(was=root)
                self._record()
                return True
        return False

    def _ask(self, name: TableName, was: TableName | None, xid: int) -> _Known:
        known = self._learn(name, was, self._catalog.seen(xid))
        if known.now != was:
            _log.info(
                "partition_came" if known.now else "partition_went", partition=str(name), table=str(known.now or was)
            )
            self._forget(xid)
            self._record()
        elif len(self._known) > _MAX_OTHERS:
            self._forget(xid)
        return known

    def _learn(self, name: TableName, was: TableName | None, seen: Seen) -> _Known:
        root, altered = self._catalog.root(name)
        now, before = (found if found in self._roots else None for found in (root, was))
        old = self._known.get(name)
        first_seen = old.first_seen if old and old.now == now else seen
        known = self._known[name] = _Known(now, before, altered, seen, first_seen)
        return known

    def _forget(self, xid: int) -> None:
        """Forget what is no part, and parts that were gone before this transaction."""
        self._known = {name: known for name, known in self._known.items() if known.now or known.seen.includes(xid)}

    def _record(self) -> None:
        roots = ((name, known.now or known.was) for name, known in sorted(self._known.items()))
        self._remember(tuple(Part(*name, *root) for name, root in roots if root))
