"""A snapshot's state, step by step."""

import msgspec

from cdc import progress
from cdc.contract.position import PositionRecord, Reading, SnapshotState, decode_record
from cdc.runtime.fields import TableName

A, B = TableName("public", "a"), TableName("public", "b")


def test_tables_are_read_one_behind_the_other_until_none_is_left() -> None:
    state = progress.begun([A, B], 5, "recovery")
    assert state == SnapshotState("running", 5, tables=(Reading(*A, "recovery"), Reading(*B, "recovery")))
    state = progress.advanced(progress.advanced(state, ("1",), 10), ("2",), 5)
    assert state.tables[0] == Reading(*A, "recovery", after=("2",), rows=15)
    state = progress.finished(state)
    assert (state.state, state.tables) == ("running", (Reading(*B, "recovery"),))
    assert progress.finished(state) == SnapshotState("done", 5)


def test_what_is_asked_for_waits_for_what_is_being_read() -> None:
    asked = Reading(*B, "incremental", "id = 1")
    assert progress.asked(SnapshotState("done", 5), asked) == SnapshotState("running", 5, tables=(asked,))
    assert progress.asked(progress.begun([A], 5, "initial"), asked).tables[1] == asked


def test_a_pause_keeps_the_place() -> None:
    state = progress.advanced(progress.begun([A], 5, "initial"), ("7",), 1)
    held = progress.paused(state, pause=True)
    assert (held.paused, held.tables) == (True, state.tables)
    assert progress.paused(held, pause=False) == state


def test_without_tables_there_is_nothing_to_read() -> None:
    assert progress.begun([], 5, "initial") == SnapshotState("done", 5)


def test_the_state_travels_in_the_position_record() -> None:
    state = progress.advanced(progress.begun([A, B], 5, "initial"), ("x", ""), 3)
    record = PositionRecord(system_id="1", timeline=1, epoch=1, lsn=5, index=0, snapshot=state, options="o")
    assert decode_record(msgspec.json.encode(record)).snapshot == state


def test_since_when_the_stream_flows_beside_a_table_is_noted_once() -> None:
    state = progress.beside(progress.begun([A], 5, "initial"), 100)
    assert state.tables == (Reading(*A, since_ms=100),)
    assert progress.beside(state, 200) == state
