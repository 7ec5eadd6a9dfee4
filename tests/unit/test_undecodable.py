"""A change that can't be read or written stops the reader with what it was; the operator passes it by its event id."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from cdc.commands import capture
from cdc.runtime.errors import ChangeUndecodable
from cdc.skip import Skip, unreadable_row
from tests.support import lines
from tests.support.lines import row


def stream(*rows: bytes, skip: str = "") -> list[bytes | None]:
    """Feed one transaction of these rows; give the keys of what is published."""
    return lines.stream(*lines.transaction(*rows), skip=skip).published


BAD = [
    pytest.param(b'{"action":"I","lsn":"0/50","schema":"public","table":"users","columns":["hidden"]', id="not JSON"),
    pytest.param(row(2, "hidden"), id="a value that is none of its type"),
]


@pytest.mark.parametrize("bad", BAD)
def test_the_error_names_position_length_and_hash_and_shows_nothing(bad: bytes) -> None:
    with pytest.raises(ChangeUndecodable) as caught:
        stream(row(1, "1990-01-02"), bad, row(3, "1990-01-02"))
    error: BaseException | None = caught.value
    assert re.search(rf"shop:1:0000000000000064:2, {len(bad)} bytes, sha256 [0-9a-f]{{64}}", str(error))
    assert "--skip shop:1:0000000000000064:2`" in str(error)
    assert "of public.users" in str(error)
    while error:
        assert "hidden" not in str(error) + repr(error) + str(getattr(error, "fields", ""))
        error = error.__cause__
    if bad is not BAD[0].values[0]:
        assert "column born" in str(caught.value)


@pytest.mark.parametrize("bad", BAD)
def test_the_operator_passes_it_by_its_event_id(bad: bytes) -> None:
    rows = row(1, "1990-01-02"), bad, row(3, "1990-01-02")
    assert stream(*rows, skip="shop:1:0000000000000064:2") == [b'{"id":1}', b'{"id":3}']
    with pytest.raises(ChangeUndecodable):
        stream(*rows, skip="shop:1:0000000000000064:1")


@pytest.mark.parametrize("mistyped", ["shop:1:0000000000000064", "shop:1:0000000000000064:x", "shop:1:snapshot", "2"])
def test_what_is_no_event_id_is_refused_before_anything_is_read(mistyped: str) -> None:
    result = CliRunner().invoke(capture, ["--skip", "shop:1:0000000000000064:2", "--skip", mistyped])
    assert result.exit_code == 2
    assert f"{mistyped} is no event id" in result.output


@pytest.mark.parametrize("half", ["", ":d", ":c"])
def test_a_key_change_is_passed_as_a_whole_by_the_id_of_either_half(half: str) -> None:
    moved = row(2, "1990-01-02", "U", old=1)
    assert stream(moved, skip=f"shop:1:0000000000000064:1{half}") == []
    assert stream(moved) == [b'{"id":1}', b'{"id":1}', b'{"id":2}']


def test_at_a_second_fault_both_are_to_be_passed_together() -> None:
    """What is skipped is committed with what follows: a session that fails goes back behind it."""
    rows = row(1, "hidden"), row(2, "hidden"), row(3, "1990-01-02")
    with pytest.raises(ChangeUndecodable, match=r"--skip shop:1:0{14}64:1 --skip shop:1:0{14}64:2`"):
        stream(*rows, skip="shop:1:0000000000000064:1")


def test_a_row_of_a_snapshot_is_passed_wherever_it_is_read() -> None:
    skip = Skip(["shop:2:snapshot:0000000000000064:public.users:0123456789abcdef"])
    assert skip.leaves_out("shop:2:snapshot:0000000000000099:public.users:0123456789abcdef")
    assert not skip.leaves_out("shop:2:snapshot:0000000000000064:public.orders:0123456789abcdef")
    assert not skip.leaves_out("shop:2:snapshot:0000000000000064:public.users:0123456789abcdee")


def test_a_row_of_a_snapshot_that_can_not_be_read_is_named_by_its_hash() -> None:
    exc = ChangeUndecodable("a row of public.users is not UTF8", table="public.users", length_bytes=3, sha256="ab" * 32)
    named = unreadable_row(exc, "shop", 2, 100)
    id_ = "shop:2:snapshot:0000000000000064:public.users:abababababababab"
    assert str(named) == f"a row of public.users is not UTF8: {id_}, 3 bytes, sha256 {'ab' * 32}"
    assert Skip([id_]).leaves_out_unread(exc)
    assert f"--skip {id_}`" in str(Skip().way_on(named))
