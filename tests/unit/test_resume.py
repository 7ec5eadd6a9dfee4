"""The last committed position: it only goes forward, and it must belong to the slot."""

import pytest
from pydantic import SecretStr

from cdc.contract.position import Position, PositionRecord, SnapshotState, Witness, decode_record
from cdc.relation import Cluster, read_history
from cdc.resume import Resume, check, first_record, hash_of
from cdc.runtime.errors import EnvelopeInvalid, PositionMismatch, SlotLost
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Kafka, Source, SourceTable
from cdc.runtime.settings import Settings
from cdc.start import slot_options

#: It left timeline 1 at 90.
HERE = Cluster("7711", 2, "shop", end_lsn=1000, left_lsn={1: 90})


def record(**changed: object) -> PositionRecord:
    given = {"system_id": "7711", "timeline": 2, "epoch": 1, "lsn": 100, "index": 3, "options": "o"}
    return PositionRecord(**{**given, "snapshot": SnapshotState("done"), **changed})  # type: ignore[arg-type]


def resumed() -> Resume:
    return Resume("t.pgherald.positions", "slot", "shop", record())


@pytest.mark.parametrize(
    ("position", "new"),
    [((100, 3), False), ((100, 2), False), ((99, 9), False), ((100, 4), True), ((101, 1), True)],
)
def test_only_what_stands_behind_the_position_is_new(position: tuple[int, int], new: bool) -> None:
    assert resumed().is_new(Position(*position)) is new


def test_a_record_is_read_back_and_never_goes_back() -> None:
    resume = resumed()
    topic, key, value = resume.record(resume.at(Position(120, 1), complete=False))
    assert (topic, key) == ("t.pgherald.positions", b"slot")
    assert decode_record(value).position == Position(120, 1)
    resume.state = resume.at(Position(120, 1), complete=False, witness=Witness(110, 7))
    resume.state = resume.at(Position(120, 1), complete=False)
    assert resume.state.witness == Witness(110, 7)
    with pytest.raises(PositionMismatch):
        resume.record(resume.at(Position(119, 9), complete=True))


def test_slot_and_position_that_belong_together_pass() -> None:
    check(record(), HERE, "o", slot_exists=True)
    check(first_record(HERE, "o"), HERE, "o", slot_exists=False)
    check(record(options="other"), HERE, "o", slot_exists=True)


@pytest.mark.parametrize(
    ("found", "slot_exists", "told"),
    [
        (record(system_id="other"), True, "another PostgreSQL cluster"),
        (record(timeline=3), True, "timeline 2, which does not descend from .* timeline 3"),
        (record(timeline=1, lsn=91), True, "lacks changes that are in Kafka"),
        (record(lsn=1001), True, "an older copy was restored"),
        (record(options="other", complete=False), True, "in the middle of a transaction"),
    ],
)
def test_a_position_of_elsewhere_stops_the_reader(found: PositionRecord, slot_exists: bool, told: str) -> None:
    with pytest.raises(PositionMismatch, match=told):
        check(found, HERE, "o", slot_exists=slot_exists)


def test_a_slot_that_is_gone_after_it_was_read_is_a_loss() -> None:
    with pytest.raises(SlotLost, match="slot recover"):
        check(record(), HERE, "o", slot_exists=False)
    with pytest.raises(SlotLost, match=r"failed over \(timeline 1 to 2\)"):
        check(record(timeline=1, lsn=90), HERE, "o", slot_exists=False)


def test_a_promoted_standby_that_has_everything_is_read_on() -> None:
    check(record(timeline=1, lsn=90), HERE, "o", slot_exists=True)


def test_a_timeline_history_is_read() -> None:
    history = "1\t0/5A\tno recovery target specified\n\n# a remark\n2\t1/0\tbefore 2026-01-01\n"
    assert read_history(history) == {1: 0x5A, 2: 0x100000000}


def test_the_last_published_transaction_must_come_by_again() -> None:
    for lsn, committed_us, met in ((100, 7, True), (100, 8, False), (101, 7, False)):
        resume = Resume("t", "slot", "shop", record(), unmet=Witness(100, 7))
        resume.meet(99, 1)
        assert resume.unmet
        if met:
            resume.meet(lsn, committed_us)
            assert not resume.unmet
        else:
            with pytest.raises(PositionMismatch, match="restored, or the slot replaced"):
                resume.meet(lsn, committed_us)


def test_options_have_one_hash_whatever_their_order() -> None:
    assert hash_of({"a": "1", "b": "2"}) == hash_of({"b": "2", "a": "1"}) != hash_of({"a": "1", "b": "3"})


def test_what_is_no_position_record_is_refused() -> None:
    with pytest.raises(EnvelopeInvalid):
        decode_record(b"{}")


def test_the_origins_that_are_left_out_are_part_of_the_options_by_name() -> None:
    def options(*names: str) -> str:
        table = SourceTable(name=TableName("public", "users"))
        source = Source(name="x", dsn=SecretStr("x"), tables=[table], skip_origins=list(names))
        return hash_of(slot_options(Settings(source=source, kafka=Kafka(bootstrap_servers="127.0.0.1:9092"))))

    assert options("a", "b") == options("b", "a")
    assert len({options(), options("a"), options("a", "b")}) == 3


def test_a_table_that_became_partitioned_in_mid_transaction_is_told_from_changed_settings() -> None:
    half = record(options="narrow", complete=False)
    with pytest.raises(PositionMismatch, match="became partitioned") as caught:
        check(half, HERE, "wide", slot_exists=True, unparted="narrow")
    assert "slot recover" in caught.value.hint
    with pytest.raises(PositionMismatch, match="changed in the middle"):
        check(half, HERE, "wide", slot_exists=True, unparted="other")
