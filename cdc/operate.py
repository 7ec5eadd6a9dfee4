"""What an operator asks of the slot: how it is, a new start after a loss, its end."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import msgspec

from cdc import catalog, measure, positions, resume, slot, start
from cdc.contract.lsn import format_lsn
from cdc.contract.position import SnapshotState
from cdc.contract.topics import positions_topic
from cdc.publisher import Publisher
from cdc.runtime import postgres
from cdc.runtime.errors import SlotInUse
from cdc.runtime.fields import TableName
from cdc.runtime.settings import Settings
from cdc.runtime.topics import wanted


def slot_status(settings: Settings) -> dict[str, Any]:
    """Tell how the slot is, how far behind, what threatens it, and what position Kafka holds."""
    found = measure.read(settings, age=True)
    record = positions.last_record(settings)
    position = None
    if record:
        position = {
            "lsn": format_lsn(record.lsn),
            "index": record.index,
            "epoch": record.epoch,
            "snapshot": _snapshot(settings, record.snapshot),
        }
    return found | {"warning": measure.danger(found) or None, "position": position}


def _snapshot(settings: Settings, state: SnapshotState) -> dict[str, Any]:
    """Tell how far the rows that were there before are read; keys are row values, and not shown."""
    if not state.tables:
        return {"state": state.state, "paused": state.paused}
    with closing(start.connect(settings)) as connection:
        tables = [
            {
                "table": reading.title,
                "why": reading.why,
                "rows": reading.rows,
                "of_about": catalog.estimated_rows(connection, TableName(reading.schema, reading.table)),
                "where": bool(reading.where),
            }
            for reading in state.tables
        ]
    return {"state": state.state, "paused": state.paused, "tables": tables}


def topics(settings: Settings) -> list[dict[str, Any]]:
    """Tell how many records each topic ever had (its end offsets, summed)."""
    from cdc.runtime import kafka  # the reader measures its slot here and has no use for a second client

    names = sorted(wanted(settings))
    return [{"topic": topic, "end_offset": end} for topic, end in kafka.end_offsets(settings.kafka, names).items()]


def drop(settings: Settings) -> bool:
    """Drop the slot; tell whether it was there. Raises SlotInUse while a process reads it."""
    with closing(start.connect(settings)) as connection:
        if not slot.exists(connection, settings.source.slot):
            return False
        with postgres.errors(), closing(connection.cursor()) as cursor:
            cursor.execute("SELECT pg_drop_replication_slot(%s)", (settings.source.slot,))
    return True


def recover(settings: Settings) -> int:
    """Begin a new epoch: the next start of capture makes a new slot and publishes every row again as `r`.

    Gives the epoch. What was written between the old slot's end and the new slot's begin reaches Kafka as `r` rows
    with `source.snapshot = "recovery"` only: consumers see the state, not the events, and nothing of rows that were
    deleted in between. Raises SlotInUse while a process reads the slot.
    """
    with closing(start.connect(settings)) as connection:
        if slot.is_active(connection, settings.source.slot):
            raise SlotInUse("a process reads the slot", hint="Stop `pgherald capture` first")
    drop(settings)
    record = positions.last_record(settings)
    with closing(slot.Slot(settings.source.dsn.get_secret_value(), settings.source.slot)) as connected:
        cluster = connected.identify()
    options = resume.hash_of(start.slot_options(settings))
    announced = resume.first_record(cluster, options, epoch=record.epoch + 1 if record else 1, why="recovery")
    with closing(Publisher(settings.kafka, settings.transactional_id, keep_alive=lambda: None)) as publisher:
        publisher.fence()
        topic = positions_topic(settings.source.name)
        publisher.commit(topic, settings.source.slot.encode(), msgspec.json.encode(announced))
    return announced.epoch
