"""A slot's first moment: announced in Kafka, then made in PostgreSQL, while whoever writes is waited for."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait

import msgspec

from cdc import positions, resume, snapshot
from cdc.contract.lsn import format_lsn
from cdc.contract.topics import positions_topic
from cdc.contract.xid import Seen
from cdc.publisher import Publisher
from cdc.relation import Cluster
from cdc.runtime.lifecycle import Stop, Stopped
from cdc.runtime.log import get_logger
from cdc.runtime.postgres import Connection
from cdc.runtime.settings import Settings
from cdc.slot import Beginning, Slot

_log = get_logger("capture")
_LOOK_S, _TELL_AFTER_S = 0.2, 5.0


def announce(settings: Settings, held: Slot, publisher: Publisher, cluster: Cluster, options: str) -> None:
    """Announce the slot in Kafka before it is made: a slot without a record is then never one of a first start.

    A crash between the two: the next start finds the announcement and makes the slot. A rival that starts at the same
    moment fences us or finds the slot made; both come back.
    """
    publisher.fence()
    topic, key = positions_topic(settings.source.name), held.name.encode()
    if known := positions.last_record(settings):
        resume.check(known, cluster, options, slot_exists=False)
    else:
        publisher.commit(topic, key, msgspec.json.encode(resume.first_record(cluster, options)))


def create(held: Slot, copying: Connection, stop: Stop) -> Seen:
    """Make the slot; tell what its snapshot sees, which `copying` has taken over. Raises Stopped."""
    beginning = _begun(held, stop)
    seen = snapshot.begin(copying, beginning.snapshot_name)
    held.create(beginning)
    _log.info("slot_created", slot=held.name, lsn=format_lsn(beginning.lsn))
    return seen


def _begun(held: Slot, stop: Stop) -> Beginning:
    """Find where the slot begins, which waits for whoever is writing. Raises Stopped.

    In a thread of its own: while libpq waits, no signal is heard.
    """
    began_at, told = time.monotonic(), False
    with ThreadPoolExecutor(1) as waiting:
        making = waiting.submit(held.begin)
        while not wait([making], _LOOK_S).done:
            if stop.requested:
                held.cancel()
            elif not told and time.monotonic() - began_at > _TELL_AFTER_S:
                told = True
                _log.warning("slot_waits", see="pg_stat_activity.backend_xid, pg_prepared_xacts")
    if stop.requested:
        raise Stopped
    return making.result()
