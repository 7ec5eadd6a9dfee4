"""How far a snapshot is, step by step: what is read, what waits, what an operator changed. Pure.

Each step gives the state that goes into the position record of the Kafka transaction which makes it true.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from cdc.contract.position import Reading, SnapshotState, Why
from cdc.runtime.fields import TableName


def begun(tables: Iterable[TableName], lsn: int, why: Why) -> SnapshotState:
    """Begin with every row of these tables; without tables there is nothing to read."""
    readings = tuple(Reading(*name, why=why) for name in tables)
    return SnapshotState("running" if readings else "done", lsn, tables=readings)


def advanced(state: SnapshotState, after: tuple[str, ...], rows: int) -> SnapshotState:
    """Go on in the table that is being read: `rows` more are in Kafka, up to this key."""
    first, *others = state.tables
    return replace(state, tables=(replace(first, after=after, rows=first.rows + rows), *others))


def finished(state: SnapshotState) -> SnapshotState:
    """Be done with the table that is being read, whether all of it was read or not."""
    others = state.tables[1:]
    return replace(state, state="running" if others else "done", tables=others)


def asked(state: SnapshotState, reading: Reading) -> SnapshotState:
    """Put a table behind those that wait."""
    return replace(state, state="running", tables=(*state.tables, reading))


def beside(state: SnapshotState, now_ms: int) -> SnapshotState:
    """Note that the stream flows from now on beside what is still to be read."""
    return replace(state, tables=tuple([replace(r, since_ms=r.since_ms or now_ms) for r in state.tables]))


def paused(state: SnapshotState, *, pause: bool) -> SnapshotState:
    """Hold the reading, or let it go on where it was held."""
    return replace(state, paused=pause)
