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
from cdc.history import Origin
from cdc.initial import Initial
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
from cdc.skip import Skip
from cdc.slot import Slot, session_options
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
    return opened


class Session(NamedTuple):
    """What the loop needs, ready to read the first line behind the last position."""

    slot: Slot
    publisher: Publisher
    router: Router
    resume: Resume
    backfill: Backfill


def open_session(settings: Settings, opened: ExitStack, stop: Stop, tries: Counter[Reading], skip: Skip) -> Session:
    """Take the slot and the transactional id, and publish a new slot's snapshot.

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
        seen = None
        if not slot.exists(connection, held.name):
            creation.announce(settings, held, publisher, cluster, resume.hash_of(slot_options(settings)))
            seen = creation.create(held, copying, stop)
        held.start(origins.resolved(options, connection, settings.source.skip_origins))
        for planned in plans:
            tables.tell(planned)
        publisher.fence()
        # Only now nobody else moves the slot.
        start_lsn = held.start_lsn(connection)
        resumed = _resume(settings, cluster, options, start_lsn)
        if resumed.state.snapshot.state == "creating":
            _begin(settings, publisher, resumed, start_lsn)
        if seen and resumed.state.snapshot.tables and (locked := _locked(settings, connection, copying, plans)):
            plans = locked
            name, state = settings.source.name, resumed.state
            origin = Origin(name, cluster.database, state.epoch, state.lsn, seen.next_xid, time.time_ns() // 1000)
            Initial(resumed, publisher, held, origin, stop, skip).run(copying, plans)
    resumed.state = msgspec.structs.replace(resumed.state, timeline=cluster.timeline, options=resume.hash_of(options))
    recorded = resumed.state
    streamed = recall.streamed(settings, recorded.epoch, recorded.snapshot.tables, held.confirm)
    resumed.state = _beside(settings, recorded)
    router = _router(settings, connection, cluster.database, resumed, plans, start_lsn)
    if resumed.state != recorded:
        # Before anything else happens: a crash from here on, and the next start knows the parts, what is still to be
        # read, and since when rows come as `c` beside it.
        publisher.commit(*resumed.record(resumed.position, complete=resumed.state.complete))
    reader = ChunkReader(lambda: connect(settings), lambda opened, name: _plan_of(settings, opened, name), skip)
    backfill = opened.enter_context(
        closing(Backfill(resumed, publisher, cluster.database, reader, tries, skip, streamed))
    )
    return Session(held, publisher, router, resumed, backfill)


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


def _locked(
    settings: Settings, connection: postgres.Connection, copying: postgres.Connection, plans: list[TablePlan]
) -> list[TablePlan]:
    """Lock the tables, and plan them as they stay; nothing where one was altered since the snapshot was taken.

    Such a snapshot may see no rows of it, or take its columns for others: they are then read beside the stream.
    """
    names = [planned.name for planned in plans]
    snapshot.lock(copying, names)
    if catalog.stored(copying, names) != catalog.stored(connection, names):
        _log.info("snapshot_beside_stream", reason="a table was altered while the slot was made")
        return []
    return table_plans(settings, connection)


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


def _router(
    settings: Settings,
    connection: postgres.Connection,
    database: str,
    resumed: Resume,
    plans: list[TablePlan],
    start_lsn: int,
) -> Router:
    def remember(parts: tuple[Part, ...]) -> None:
        resumed.state = msgspec.structs.replace(resumed.state, parts=parts)

    asked = catalog.Catalog(connection)
    roots = [planned.name for planned in plans if planned.relation.partitioned]
    parts = Partitions(asked, roots, resumed.state.parts, remember)
    captured = tables.CapturedTables(settings.source, asked, parts, plans, wide=bool(roots))
    name, epoch = settings.source.name, resumed.state.epoch
    # What was confirmed ends a transaction; before the first event there is none, for Debezium too.
    last_commit_lsn = start_lsn if resumed.state.witness else None
    return Router(name, database, epoch, captured, lambda id_: origins.name(connection, id_), last_commit_lsn)
