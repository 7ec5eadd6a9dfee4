"""From settings to a running session: topics, tables, slot, fence, position, snapshot, in the order that is safe."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing

import msgspec

from cdc import catalog, origins, positions, resume, slot, snapshot, tables
from cdc.contract.event import Event
from cdc.contract.position import Part, SnapshotState, format_lsn
from cdc.contract.topics import positions_topic
from cdc.partitions import Partitions
from cdc.publisher import Publisher
from cdc.relation import Cluster
from cdc.resume import Resume
from cdc.routing import Router
from cdc.rows import TablePlan, plan
from cdc.runtime import postgres
from cdc.runtime.errors import AccessDenied, PositionMismatch, SlotInUse
from cdc.runtime.lifecycle import Stop, Stopped
from cdc.runtime.log import get_logger
from cdc.runtime.settings import Settings
from cdc.slot import Created, Slot, session_options
from cdc.wal2json import OPTIONS

_log = get_logger("capture")
_PROGRESS_EVERY_S = 5.0
_COMMIT_ROWS = 10_000
_COMMIT_BYTES = 8_000_000
_LEDGER = ("migration", "event", "delivery", "lane")
#: Rows that come slowly must not let the transaction time out.
_COMMIT_AGE_S = 1.0


def slot_options(settings: Settings, *, partitioned: bool = False) -> dict[str, str]:
    """Give wal2json's options, with the captured tables as its filter wants them written.

    Parts of a partitioned table may come in any schema and under any name while we read, and the filter is fixed when
    we start: with such a table all lines pass but those of our own ledger, and `CapturedTables` chooses.
    """
    if partitioned:
        chosen = {"filter-tables": ",".join(f"pgherald.{table}" for table in _LEDGER)}
    else:
        names = (f"{_filtered(table.name.schema)}.{_filtered(table.name.table)}" for table in settings.source.tables)
        chosen = {"add-tables": ",".join(names)}
    skipped = sorted(settings.source.skip_origins)
    return {**OPTIONS, **chosen, **({origins.FILTER: ",".join(skipped)} if skipped else {})}


def _filtered(identifier: str) -> str:
    """Escape what wal2json's table filter reads as syntax (its README, `add-tables`)."""
    return "".join(f"\\{c}" if c in " ,.*\\'" else c for c in identifier)


def connect(settings: Settings) -> postgres.Connection:
    """Open an ordinary session on the source, pinned like the walsender's."""
    dsn = settings.source.dsn.get_secret_value()
    opened = postgres.connect(dsn, application_name="pgherald capture", options=session_options())
    opened.autocommit = True
    return opened


def open_session(settings: Settings, opened: ExitStack, stop: Stop) -> tuple[Slot, Publisher, Router, Resume]:
    """Take the slot and the transactional id, and be ready to read the first line behind the last position.

    Raises RetryableError for what may pass, SlotInUse while another reader is healthy, FatalError for the rest.
    """
    connection = opened.enter_context(closing(connect(settings)))
    if slot.is_active(connection, settings.source.slot):
        raise SlotInUse("another process reads the slot")  # most of a standby's life ends here, and costs little
    _ensure_topics(settings)
    plans = table_plans(settings, connection)
    held = opened.enter_context(closing(Slot(settings.source.dsn.get_secret_value(), settings.source.slot)))
    publisher = opened.enter_context(
        closing(Publisher(settings.kafka, settings.transactional_id, keep_alive=held.confirm))
    )
    cluster = held.identify()
    wide = any(planned.relation.partitioned for planned in plans)
    options = slot_options(settings, partitioned=wide)
    with closing(connect(settings)) as copying:
        # The exported snapshot ends with the next replication command: take it over before streaming starts.
        exported = None if slot.exists(connection, held.name) else _create(settings, held, publisher, cluster)
        xid = snapshot.begin(copying, exported.snapshot_name) if exported else None
        held.start(origins.resolved(options, connection, settings.source.skip_origins))
        for planned in plans:
            tables.tell(planned)
        publisher.fence()
        # Only now nobody else moves the slot.
        resumed = _resume(settings, cluster, options, held.start_lsn(connection))
        if resumed.state.snapshot.state != "done":
            xid = snapshot.begin(copying, None) if xid is None else xid
            _Snapshot(settings, held, publisher, resumed, cluster.database, stop).run(copying, xid, plans)
    resumed.state = msgspec.structs.replace(resumed.state, timeline=cluster.timeline, options=resume.hash_of(options))
    recorded = resumed.state.parts
    router = _router(settings, connection, cluster.database, resumed, plans)
    if resumed.state.parts != recorded:
        # Before anything else happens to them: a crash from here on, and the next start knows them.
        publisher.commit(*resumed.record(resumed.position, complete=resumed.state.complete))
    return held, publisher, router, resumed


def _ensure_topics(settings: Settings) -> None:
    if missing := positions.ensure_topics(settings):
        names = ", ".join(missing)
        raise AccessDenied(
            f"Kafka lacks the topics {names}",
            hint="Create them, or let pgherald do it: kafka.create_topics = true",
        )


def table_plans(settings: Settings, connection: postgres.Connection) -> list[TablePlan]:
    """Plan every captured table. Raises AccessDenied for one that is not there, ConfigInvalid for a secret key."""
    plans = []
    for table in settings.source.tables:
        relation = catalog.read_relation(connection, table.name)
        if relation is None:
            hint = 'Create it, or correct source.tables (names are written as in SQL: public."User")'
            raise AccessDenied(f"there is no table {table.name.sql()} that this role may see", hint=hint)
        tables.check_part(settings.source, table.name, catalog.Catalog(connection).root(table.name)[0])
        plans.append(plan(settings.source, table, relation))
    return plans


def _create(settings: Settings, held: Slot, publisher: Publisher, cluster: Cluster) -> Created:
    """Announce the slot in Kafka, then make it: a slot without a record is then never one of a first start.

    A crash between the two: the next start finds the announcement and makes the slot. A rival that starts at the same
    moment fences us or finds the slot made; both come back.
    """
    publisher.fence()
    topic, key = positions_topic(settings.source.name), held.name.encode()
    options = resume.hash_of(slot_options(settings))
    if known := positions.last_record(settings):
        resume.check(known, cluster, options, slot_exists=False)
    else:
        publisher.commit(topic, key, msgspec.json.encode(resume.first_record(cluster, options)))
    created = held.create()
    _log.info("slot_created", slot=held.name, lsn=format_lsn(created.consistent_lsn))
    return created


def _resume(settings: Settings, cluster: Cluster, options: dict[str, str], slot_lsn: int) -> Resume:
    record = positions.last_record(settings)
    if record is None:
        raise PositionMismatch("the slot is there, but Kafka holds no position of it", hint=resume.RECOVER)
    resume.check(record, cluster, resume.hash_of(options), slot_exists=True)
    unmet = record.witness if record.witness and slot_lsn < record.witness.lsn else None
    topic, name = positions_topic(settings.source.name), settings.source.name
    return Resume(topic, settings.source.slot, name, record, unmet)


def _router(
    settings: Settings, connection: postgres.Connection, database: str, resumed: Resume, plans: list[TablePlan]
) -> Router:
    def remember(parts: tuple[Part, ...]) -> None:
        resumed.state = msgspec.structs.replace(resumed.state, parts=parts)

    asked = catalog.Catalog(connection)
    roots = [planned.name for planned in plans if planned.relation.partitioned]
    parts = Partitions(asked, roots, resumed.state.parts, remember)
    captured = tables.CapturedTables(settings.source, asked, parts, plans, wide=bool(roots))
    name, epoch = settings.source.name, resumed.state.epoch
    return Router(name, database, epoch, captured, lambda id_: origins.name(connection, id_))


class _Snapshot:
    """The initial snapshot, published under the slot's lock.

    Interrupted, it starts again from a new snapshot with the same slot: rows may come twice as `r`, and what was
    written meanwhile follows from the slot as what it is.
    """

    def __init__(
        self, settings: Settings, held: Slot, publisher: Publisher, resumed: Resume, database: str, stop: Stop
    ) -> None:
        self._settings = settings
        self._slot = held
        self._publisher = publisher
        self._resumed = resumed
        self._database = database
        self._stop = stop
        self._told_at = time.monotonic()

    def run(self, copying: postgres.Connection, xid: int, plans: list[TablePlan]) -> None:
        """Publish every row of every table, then record that it is done."""
        lsn = self._resumed.state.snapshot.lsn or self._slot.start_lsn(copying)
        rows = 0
        if self._settings.source.snapshot == "initial":
            rows = self._copy(copying, xid, plans, lsn)
        self._resumed.state = msgspec.structs.replace(self._resumed.state, lsn=lsn)
        self._publisher.commit(*self._resumed.snapshot(SnapshotState("done", lsn, rows=rows)))
        _log.info("snapshot_done", rows=rows, mode=self._settings.source.snapshot)

    def _copy(self, copying: postgres.Connection, xid: int, plans: list[TablePlan], lsn: int) -> int:
        state = self._resumed.state
        taken_us = time.time_ns() // 1000
        origin = snapshot.Origin(self._settings.source.name, self._database, state.epoch, lsn, xid, taken_us)
        rows = snapshot.RowEvents(origin, self._publish)
        for planned in plans:
            self._at = SnapshotState("running", lsn, planned.title)
            snapshot.read_table(copying, planned, lambda row, planned=planned: rows.add(planned, row))  # type: ignore[misc]
        rows.end()
        return rows.rows

    def _publish(self, event: Event) -> None:
        """Publish a row, commit now and then, keep the slot alive, say how far it is."""
        publisher = self._publisher
        publisher.publish([event])
        age_s = time.monotonic() - (publisher.began_at or 0.0)
        if publisher.events < _COMMIT_ROWS and publisher.size_bytes < _COMMIT_BYTES and age_s < _COMMIT_AGE_S:
            return
        self._at = msgspec.structs.replace(self._at, rows=self._at.rows + self._publisher.events)
        self._publisher.commit(*self._resumed.snapshot(self._at))
        self._slot.confirm()
        if self._stop.requested:
            raise Stopped
        if time.monotonic() - self._told_at > _PROGRESS_EVERY_S:
            self._told_at = time.monotonic()
            _log.info("snapshot_running", table=self._at.table, rows=self._at.rows)
