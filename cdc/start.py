"""From settings to a running session: topics, tables, slot, fence, position, snapshot, in the order that is safe."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack, closing
from typing import NamedTuple

import msgspec

from cdc import catalog, command, creation, origins, positions, progress, recall, resume, slot, snapshot, tables
from cdc.backfill import Backfill
from cdc.chunks import ChunkReader
from cdc.contract.position import Part, PositionRecord, Reading
from cdc.contract.topics import positions_topic
from cdc.contract.xid import Seen
from cdc.history import Origin
from cdc.initial import Initial
from cdc.moved import Streamed
from cdc.partitions import Partitions
from cdc.publisher import Publisher
from cdc.relation import Cluster
from cdc.resume import Resume
from cdc.routing import Router
from cdc.rows import TablePlan, plan
from cdc.runtime import postgres
from cdc.runtime.errors import AccessDenied, PermanentError, PositionMismatch, SlotInUse
from cdc.runtime.fields import TableName
from cdc.runtime.lifecycle import Stop
from cdc.runtime.log import get_logger
from cdc.runtime.settings import Settings
from cdc.session import lift_limits, session_options
from cdc.skip import Skip
from cdc.slot import Slot
from cdc.wal2json import OPTIONS

_log = get_logger("capture")
#: All tables of the ledger; not that of commands, which capture reads.
_LEDGER = "migration event delivery lane operation operation_delivery suppression link_use".split()


def slot_options(settings: Settings, *, partitioned: bool = False) -> dict[str, str]:
    """Give wal2json's options, with the captured tables and that of commands as its filter wants them written.

    Parts of a partitioned table may come in any schema and under any name while we read, and the filter is fixed when
    we start: with such a table all lines pass but those of our own ledger, and `CapturedTables` chooses.
    """
    if partitioned:
        chosen = {"filter-tables": ",".join(f"pgherald.{table}" for table in _LEDGER)}
    else:
        captured = [*(table.name for table in settings.source.tables), command.TABLE]
        chosen = {"add-tables": ",".join(f"{_filtered(name.schema)}.{_filtered(name.table)}" for name in captured)}
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
    lift_limits(opened)
    return opened


class Session(NamedTuple):
    """What the loop needs, ready to read the first line behind the last position."""

    slot: Slot
    publisher: Publisher
    router: Router
    resume: Resume
    backfill: Backfill


class Attempts(NamedTuple):
    """What the sessions of a process hand on: what was tried before."""

    #: How often the reading of each table began.
    readings: Counter[Reading]
    #: LSNs of lines that were doubted, and are believed when they come again.
    lines: set[str]


class _Source(NamedTuple):
    """What a session is opened with."""

    settings: Settings
    #: An ordinary session, beside the slot's.
    connection: postgres.Connection
    slot: Slot
    publisher: Publisher
    cluster: Cluster
    plans: list[TablePlan]
    #: wal2json's, for these tables.
    options: dict[str, str]


def open_session(settings: Settings, opened: ExitStack, stop: Stop, attempts: Attempts, skip: Skip) -> Session:
    """Take the slot and the transactional id, and publish a new slot's snapshot.

    Raises RetryableError for what may pass, SlotInUse while another reader is healthy, FatalError for the rest.
    """
    source = _connected(settings, opened)
    with closing(connect(settings)) as copying:
        seen = _created(source, copying, stop)
        start_lsn, resumed = _taken(source)
        source = _first_rows(source, resumed, seen, copying, stop, skip)
    router, streamed = _noted(source, resumed, start_lsn, attempts.lines)
    reader = ChunkReader(lambda: connect(settings), lambda opened, name: _plan_of(settings, opened, name), skip)
    backfill = Backfill(resumed, source.publisher, source.cluster.database, reader, attempts.readings, skip, streamed)
    return Session(source.slot, source.publisher, router, resumed, opened.enter_context(closing(backfill)))


def _connected(settings: Settings, opened: ExitStack) -> _Source:
    """Open every connection; whoever finds the slot in use goes no further, and costs little."""
    connection = opened.enter_context(closing(connect(settings)))
    if slot.is_active(connection, settings.source.slot):
        raise SlotInUse("another process reads the slot")
    _ensure_topics(settings)
    plans = table_plans(settings, connection)
    held = opened.enter_context(closing(Slot(settings.source.dsn.get_secret_value(), settings.source.slot)))
    publisher = Publisher(settings.kafka, settings.transactional_id, keep_alive=held.confirm)
    opened.enter_context(closing(publisher))
    options = slot_options(settings, partitioned=any(planned.relation.partitioned for planned in plans))
    return _Source(settings, connection, held, publisher, held.identify(), plans, options)


def _created(source: _Source, copying: postgres.Connection, stop: Stop) -> Seen | None:
    """Make the slot where there is none, and tell what its snapshot sees."""
    if slot.exists(source.connection, source.slot.name):
        return None
    options = resume.hash_of(slot_options(source.settings))
    creation.announce(source.settings, source.slot, source.publisher, source.cluster, options)
    return creation.create(source.slot, copying, stop)


def _taken(source: _Source) -> tuple[int, Resume]:
    """Take over slot, transactional id and position, in this order: a rival gets no further than the first."""
    settings, connection = source.settings, source.connection
    source.slot.start(origins.resolved(source.options, connection, settings.source.skip_origins))
    for planned in source.plans:
        tables.tell(planned)
    source.publisher.fence()
    # Only now nobody else moves the slot.
    start_lsn = source.slot.start_lsn(connection)
    resumed = _resume(settings, source.cluster, source.options, start_lsn)
    if resumed.state.snapshot.state == "creating":
        _begin(settings, source.publisher, resumed, start_lsn)
    return start_lsn, resumed


def _first_rows(
    source: _Source, resumed: Resume, seen: Seen | None, copying: postgres.Connection, stop: Stop, skip: Skip
) -> _Source:
    """Publish the snapshot of a slot that was made just now, with the tables as they stay meanwhile."""
    if not seen or not resumed.state.snapshot.tables:
        return source
    locked = _locked(source, copying)
    if not locked:
        return source
    name, state = source.settings.source.name, resumed.state
    origin = Origin(name, source.cluster.database, state.epoch, state.lsn, seen.next_xid, time.time_ns() // 1000)
    Initial(resumed, source.publisher, source.slot, origin, stop, skip).run(copying, locked)
    return source._replace(plans=locked)


def _noted(source: _Source, resumed: Resume, start_lsn: int, read_again: set[str]) -> tuple[Router, Streamed]:
    """Note in Kafka how it goes on, before anything else happens.

    A crash from here on, and the next start knows the parts, what is still to be read, and since when rows come as `c`
    beside it.
    """
    settings, options = source.settings, resume.hash_of(source.options)
    recorded = msgspec.structs.replace(resumed.state, timeline=source.cluster.timeline, options=options)
    streamed = recall.streamed(settings, recorded.epoch, recorded.snapshot.tables, source.slot.confirm)
    resumed.state = _beside(settings, recorded)
    router = _router(source, resumed, start_lsn, read_again)
    if resumed.state != recorded:
        source.publisher.commit(*resumed.record(resumed.state))
    return router, streamed


def _begin(settings: Settings, publisher: Publisher, resumed: Resume, lsn: int) -> None:
    """Note which rows are to be read for a slot that is there now; nothing of them is in Kafka yet."""
    why = resumed.state.snapshot.why
    reads = settings.source.snapshot == "initial" or why == "recovery"
    state = progress.begun((table.name for table in settings.source.tables if reads), lsn, why)
    resumed.state = msgspec.structs.replace(resumed.state, lsn=lsn, tables=_names(settings))
    publisher.commit(*resumed.snapshot(state))


def _names(settings: Settings) -> tuple[TableName, ...]:
    return tuple(table.name for table in settings.source.tables)


def _beside(settings: Settings, record: PositionRecord) -> PositionRecord:
    """Note what is read beside the stream from now on: the rest, and tables that were named since the last start."""
    state, names = record.snapshot, _names(settings)
    for name in names if record.tables and settings.source.snapshot == "initial" else ():
        if name not in record.tables:
            _log.info("table_added", table=str(name), effect="its rows are read beside the stream")
            state = progress.asked(state, Reading(*name))
    return msgspec.structs.replace(record, snapshot=progress.beside(state, time.time_ns() // 1_000_000), tables=names)


def _locked(source: _Source, copying: postgres.Connection) -> list[TablePlan]:
    """Lock the tables, and plan them as they stay; nothing where one was altered since the snapshot was taken.

    Such a snapshot may see no rows of it, or take its columns for others: they are then read beside the stream.
    """
    names = [planned.name for planned in source.plans]
    snapshot.lock(copying, names)
    if catalog.stored(copying, names) != catalog.stored(source.connection, names):
        _log.info("snapshot_beside_stream", reason="a table was altered while the slot was made")
        return []
    return table_plans(source.settings, source.connection)


def _plan_of(settings: Settings, connection: postgres.Connection, name: TableName) -> TablePlan | None:
    """Plan a table as it is now; None when it is gone. Raises PermanentError for one that is not captured."""
    table = next((table for table in settings.source.tables if table.name == name), None)
    if table is None:
        raise PermanentError("the table is not in source.tables")
    relation = catalog.read_relation(connection, name)
    return plan(settings.source, table, relation) if relation else None


def _ensure_topics(settings: Settings) -> None:
    if missing := positions.ensure_topics(settings):
        names = ", ".join(missing)
        raise AccessDenied(
            f"Kafka lacks or hides the topics {names}",
            hint="Create them and add the principal's ACLs as `pgherald preflight` says, or let pgherald create them: "
            "kafka.create_topics = true",
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


def _resume(settings: Settings, cluster: Cluster, options: dict[str, str], slot_lsn: int) -> Resume:
    record = positions.last_record(settings)
    if record is None:
        raise PositionMismatch("the slot is there, but Kafka holds no position of it", hint=resume.RECOVER)
    unparted = resume.hash_of(slot_options(settings))
    resume.check(record, cluster, resume.hash_of(options), slot_exists=True, unparted=unparted)
    unmet = record.witness if record.witness and slot_lsn < record.witness.lsn else None
    topic, name = positions_topic(settings.source.name), settings.source.name
    return Resume(topic, settings.source.slot, name, record, unmet)


def _router(source: _Source, resumed: Resume, start_lsn: int, read_again: set[str]) -> Router:
    def remember(parts: tuple[Part, ...]) -> None:
        resumed.state = msgspec.structs.replace(resumed.state, parts=parts)

    said, connection = source.settings.source, source.connection
    asked = catalog.Catalog(connection)
    roots = [planned.name for planned in source.plans if planned.relation.partitioned]
    parts = Partitions(asked, roots, resumed.state.parts, remember)
    captured = tables.CapturedTables(said, asked, parts, source.plans, read_again, wide=bool(roots))
    # What was confirmed ends a transaction; before the first event there is none, for Debezium too.
    last_commit_lsn = start_lsn if resumed.state.witness else None
    database, epoch = source.cluster.database, resumed.state.epoch
    return Router(
        said.name, database, epoch, captured, lambda id_: origins.name(source.connection, id_), last_commit_lsn
    )
