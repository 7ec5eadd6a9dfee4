"""Positions and event ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.contract.lsn import format_lsn, parse_lsn
from cdc.contract.position import Position, event_id, position_of, snapshot_event_id
from cdc.runtime.errors import EnvelopeInvalid

lsns = st.integers(0, 2**64 - 1)


@given(lsns)
def test_an_lsn_is_read_back_from_its_text(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


def test_an_lsn_is_written_as_postgres_does() -> None:
    assert format_lsn(0x16B374D848) == "16/B374D848"


@given(lsns, st.integers(0, 10**7), lsns, st.integers(0, 10**7))
def test_event_ids_order_as_their_positions(lsn: int, index: int, other_lsn: int, other_index: int) -> None:
    first, second = Position(lsn, index), Position(other_lsn, other_index)
    assert position_of(event_id("shop", 1, first)) == first
    assert (first < second) == (position_of(event_id("shop", 1, first)) < position_of(event_id("shop", 1, second)))


def test_an_event_id_is_as_documented() -> None:
    assert event_id("badgeyay", 1, Position(0x16B374D848, 3)) == "badgeyay:1:00000016b374d848:3"


def test_the_halves_of_a_key_change_share_their_position() -> None:
    whole = event_id("shop", 1, Position(7, 2))
    assert position_of(f"{whole}:d") == position_of(f"{whole}:c") == Position(7, 2)


def test_a_snapshot_rows_id_hides_its_key_and_stands_before_the_stream() -> None:
    id_ = snapshot_event_id("shop", 1, 16, "public.users", b'{"email":"a@example.org"}')
    assert id_.startswith("shop:1:snapshot:0000000000000010:public.users:")
    assert "example" not in id_
    assert position_of(id_) < Position(16, 1)


@pytest.mark.parametrize("text", ["", "shop", "shop:1:xyz:0", "shop:1:10"])
def test_what_is_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(EnvelopeInvalid):
        position_of(text)
