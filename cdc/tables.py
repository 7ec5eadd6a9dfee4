"""The captured tables while they change: finds the plan by which each line is written.

A line says its columns, types and key as they were at its own moment; the catalog says how they are now. A line that
shows all of a known shape needs nothing else. For any other the catalog must be as new as the line, and where it is
newer the transaction ids tell whether the line stands before the change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cdc.catalog import Catalog, Place
from cdc.contract.xid import NOTHING_SEEN, Seen, is_before
from cdc.cutting import table_of
from cdc.partitions import Partitions
from cdc.relation import Relation
from cdc.rows import TablePlan, plan
from cdc.runtime import metrics
from cdc.runtime.errors import ChangeUndecodable, ConfigInvalid, LineDoubtful, RecordsLost
from cdc.runtime.fields import TableName
from cdc.runtime.log import get_logger
from cdc.runtime.sections import Source
from cdc.shapes import fits, may_hide_key, resembles, told_by
from cdc.wal2json import RowChange, Truncate

_log = get_logger("capture")
_LOOK_EVERY_S = 5.0


@dataclass(slots=True)
class _Shapes:
    """A table as the catalog knows it, and as it was before the last change or as an old line says."""

    now: TablePlan
    before: TablePlan | None
    seen: Seen

    def choose(self, change: RowChange, xid: int) -> TablePlan | None:
        """Take the shape that a line has; where both explain it, the one of its moment."""
        older_first = is_before(xid, self.now.relation.changed_xid)
        shapes = (self.before, self.now) if older_first else (self.now, self.before)
        return next((shape for shape in shapes if shape and fits(shape.relation, change, xid)), None)


class CapturedTables:
    """Plans by table. Reads the catalog again when a line can't be explained by what is known."""

    def __init__(
        self,
        source: Source,
        catalog: Catalog,
        partitions: Partitions,
        plans: Sequence[TablePlan],
        read_again: set[str],
        *,
        wide: bool,
    ) -> None:
        """`read_again` are the LSNs of lines that were doubted; it outlives the session."""
        self._source = source
        self._tables = {table.name: table for table in source.tables}
        self._catalog = catalog
        self._partitions = partitions
        self._read_again = read_again
        self._wide = wide
        #: How the tables were when the session began: for lines before that, it is not the last word.
        self._shapes: dict[tuple[str, str], _Shapes] = {
            planned.name: _Shapes(planned, None, NOTHING_SEEN) for planned in plans
        }
        self._domains = {name: base for planned in plans for name, base in planned.relation.domains.items()}
        #: The plan of each table by how its lines name it; those of partitions have other names.
        self.of_lines = {table_of(*planned.name): planned for planned in plans}
        self._truncated: tuple[TableName, str] | None = None
        self._passed_over: set[TableName] = set()
        self._unknown: set[TableName] = set()
        self._places: dict[TableName, Place] = {}
        self._looked_at = 0.0

    def plan(self, change: RowChange | Truncate, xid: int) -> TablePlan | None:
        """Find the plan of a line of a transaction; None where its table is not captured.

        Raises ConfigInvalid when the key's columns must not leave, LineDoubtful for a line that is to be read again.
        """
        shapes = self._shapes.get((change.schema, change.table))
        if shapes is not None and isinstance(change, RowChange) and shapes.now.shows(change):
            return shapes.now
        place = TableName(change.schema, change.table)
        name = place if place in self._tables else self._partitions.root_of(place, xid)
        if name is None and self._partitions.may_have_been_part(place, xid):
            name = self._root_of_lost(change, place, xid)
        if name is None:
            return None
        shapes = self._shapes.get(name)
        if isinstance(change, Truncate):
            return self._truncated_plan(change, place, name, shapes or self._read(name, None, xid))
        if shapes is not None and shapes.now.shows(change):
            return shapes.now
        last = shapes and (shapes.before or shapes.now)
        if shapes is None or not shapes.seen.includes(xid):
            shapes = self._read(name, shapes, xid)
        found = shapes.choose(change, xid) or self._told(change, xid, shapes)
        if last:
            self._doubt(change, found, last)
        return found

    def _told(self, change: RowChange, xid: int, shapes: _Shapes) -> TablePlan:
        """Take a line's word: the catalog is ahead of it, or the table is gone."""
        before = shapes.before.relation if shapes.before else None
        shapes.before = shapes.now.with_shape(told_by(change, xid, shapes.now.relation, before))
        return shapes.before

    def _doubt(self, change: RowChange, found: TablePlan, last: TablePlan) -> None:
        """Read a line again, once, that shows no key where there was one: it then has it if there still was."""
        if may_hide_key(change, found.relation, last.relation) and change.lsn not in self._read_again:
            self._read_again.add(change.lsn)
            raise LineDoubtful(f"a row of {found.title} came without the key that the table had: reading it again")

    def _root_of_lost(self, change: RowChange | Truncate, place: TableName, xid: int) -> TableName | None:
        """Find whose part a table was that nobody looked at in time.

        Raises ChangeUndecodable where nothing tells: its rows are neither left out nor made ours unasked. Once the line
        was passed over, by --skip or because it was before, the table's other ones are too.
        """
        if isinstance(change, Truncate):
            return None
        shapes = [[shape.relation for shape in (of.now, of.before) if shape] for of in self._shapes.values()]
        alike = [now.name for now, *before in shapes if now.partitioned and resembles([now, *before], change)]
        for root in alike:
            if self._partitions.find_renamed(place, root, xid):
                return root
        if not alike:
            self._tell_unknown(place)
            return None
        if place in self._passed_over:
            metrics.changes_skipped.inc()
            return None
        self._passed_over.add(place)
        raise ChangeUndecodable(
            f"rows of {place} may be of a partition of {alike[0]}: it was renamed, dropped or detached unseen",
            hint=f"The skip leaves out its rows; `pgherald snapshot {alike[0].sql()}` reads those that are still there",
            table=str(place),
        )

    def _tell_unknown(self, place: TableName) -> None:
        """Say it once: a root that was altered again and again meanwhile may have had shapes that nobody saw."""
        if place not in self._unknown:
            self._unknown.add(place)
            effect = "were it a partition of an older shape of its root, its rows are missing"
            _log.warning(
                "table_unknown", table=str(place), effect=effect, remedy="pgherald snapshot of the whole table"
            )

    def _read(self, name: TableName, known: _Shapes | None, xid: int) -> _Shapes:
        seen = self._catalog.seen(xid)
        relation = self._catalog.relation(name) or Relation(name, (), ())
        self._domains |= relation.domains  # of one that is dropped, rows may still come
        relation = replace(relation, domains=self._domains)
        if known is not None and relation == known.now.relation:
            known.seen = seen
            return known
        now = plan(self._source, self._tables[name], relation)
        before = known.now if known else None
        if known and known.now.relation.columns == relation.columns:
            before = known.before  # it is not the columns that changed
        elif before:
            tell_change(before, now)
        shapes = self._shapes[name] = _Shapes(now, before if before and before.columns else None, seen)
        self.of_lines[table_of(*name)] = now
        return shapes

    def _truncated_plan(self, change: Truncate, place: TableName, name: TableName, shapes: _Shapes) -> TablePlan | None:
        """Make one event of a truncated table with its parts, and none of a part alone, as Debezium does."""
        if place == name:
            self._truncated = (name, change.lsn)
            return shapes.now
        if self._truncated != (name, change.lsn):
            effect = "its rows are not told of: a t record would empty the whole table"
            _log.warning("partition_truncated", partition=str(place), table=str(name), effect=effect)
        return None

    def look(self) -> None:
        """Now and then, see what became of the tables: a table that lost its name sends no line that could tell.

        Raises RecordsLost when one became partitioned: the filter of this session lets no line of its parts through.
        """
        if time.monotonic() - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        places = self._catalog.places(list(self._tables))
        for name, place in places.items():
            if place.partitioned and not self._wide:
                raise RecordsLost(
                    f"{name.sql()} became partitioned while it was read: rows written to its parts since are missing",
                    hint=f"Start capture again, then `pgherald snapshot {name.sql()}` publishes the rows as they are",
                )
        for name in self._places.keys() - places.keys():
            now = self._catalog.name_of(self._places[name].oid)
            effect = "its rows are captured no more; name it in source.tables, or give the name back"
            _log.warning("table_gone", table=str(name), renamed_to=now and str(now), effect=effect)
        for name in places.keys() - self._places.keys() if self._places else ():
            _log.info("table_came", table=str(name))
        self._places = places


def check_part(source: Source, name: TableName, root: TableName | None) -> None:
    """Raise ConfigInvalid when a table is captured with its root: each row would have two topics to be in."""
    if root is not None and any(table.name == root for table in source.tables):
        raise ConfigInvalid(
            f"{name.sql()} is a partition of {root.sql()}, and both are in source.tables",
            hint=f"Name {root.sql()} alone: the rows of its partitions are published as its own",
        )


def tell(planned: TablePlan) -> None:
    """Log how a table is captured: the columns that stay home above all."""
    relation = planned.relation
    if not relation.logged:
        effect = "its changes, or those of a partition, are not in the WAL: they never come"
        remedy = f"ALTER TABLE {relation.name.sql()} SET LOGGED"
        _log.warning("table_unlogged", table=planned.title, effect=effect, remedy=remedy)
    if not planned.key:
        what = "changes" if relation.full_identity else "inserts only,"
        _log.warning("table_without_key", table=planned.title, effect=f"{what} with a null key")
    elif relation.identity == "nothing":
        effect = "PostgreSQL logs no updates and deletes of it: inserts only"
        _log.warning(
            "table_without_identity", table=planned.title, effect=effect, remedy=identity_sql(relation, "DEFAULT")
        )
    elif not relation.logs_old_keys:
        effect = "a delete comes with a null key, and a key change as an update"
        _log.warning(
            "table_hides_old_keys", table=planned.title, effect=effect, remedy=identity_sql(relation, "DEFAULT")
        )
    left_out = sorted(set(planned.columns) - set(planned.written()))
    _log.info("table", table=planned.title, columns=planned.written(), left_out=left_out)


def tell_change(before: TablePlan, now: TablePlan) -> None:
    """Log that a table has changed; a new column that looks secret stays home, and that is said."""
    if not now.columns:
        _log.warning("table_gone", table=now.title, effect="rows that are under way are still published")
        return
    left_out = sorted(set(now.columns) - set(now.written()))
    added, dropped = (
        [n for n in a if n not in b] for a, b in ((now.columns, before.columns), (before.columns, now.columns))
    )
    _log.info("table_changed", table=now.title, added=added, dropped=dropped, left_out=left_out)


def identity_sql(relation: Relation, identity: str) -> str:
    """Write the statement that gives a table, or each partition of one, another replica identity."""
    name = relation.name.sql()
    if not relation.partitioned:
        return f"ALTER TABLE {name} REPLICA IDENTITY {identity};"
    text = name.replace("'", "''")
    each = f"SELECT format('ALTER TABLE %s REPLICA IDENTITY {identity};', relid)"
    return f"{each} FROM pg_partition_tree('{text}') WHERE isleaf \\gexec"
