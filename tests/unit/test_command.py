"""What an operator may ask, and which conditions can't be anything but an expression."""

import pytest

from cdc.command import check_condition, is_own, nonce_of, read, watermark
from cdc.contract.position import Reading
from cdc.runtime.errors import PermanentError
from cdc.wal2json import Delete, Insert, decode


def inserted(**columns: object) -> Insert:
    values = ",".join(f'{{"name":"{n}","type":"text","value":{v}}}' for n, v in columns.items())
    line = f'{{"action":"I","lsn":"0/1","schema":"pgherald","table":"command","columns":[{values}]}}'
    change = decode(line.encode())
    assert isinstance(change, Insert)
    return change


def test_a_command_is_read_from_its_line() -> None:
    change = inserted(id=7, slot='"s"', action='"snapshot"', schema_name='"a"', table_name='"b"', condition='"x = 1"')
    assert is_own(change)
    command = read(change)
    assert command is not None
    assert (command.id, command.slot, command.action) == ("7", "s", "snapshot")
    assert command.reading == Reading("a", "b", "incremental", "x = 1")
    assert read(Delete("0/1", "pgherald", "command")) is None
    assert not is_own(Delete("0/1", "public", "command"))


def test_columns_that_are_null_or_unknown_are_passed_over() -> None:
    command = read(inserted(id=7, slot='"s"', action='"pause"', table_name="null", else_="true"))
    assert command is not None
    assert command.table_name == ""


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "id > 5",
        "email LIKE '%;--''/*$$)' AND \"a;)\"\"\" = 1",
        "lower(email) IN ('a', 'b') OR (n - -1) > 0",
        r"email ~ '\d\'",
        "id = ANY (SELECT user_id FROM public.orders)",
    ],
)
def test_an_expression_passes(condition: str) -> None:
    check_condition(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "true; DELETE FROM users",
        "true) OR (true",
        "(true",
        "true -- rest",
        "true /* rest",
        "email = 'a",
        '"a',
        r"email = E'\'; DROP TABLE users; --'",
        r"email = e'\'",
        "email = U&'a'",
        "email = $$a$$",
        "1$x$ ' $x$ ; DROP TABLE users; --'",
        "true\x00",
        "id = 1 OR " * 500 + "true",
    ],
)
def test_what_could_be_more_than_an_expression_is_refused(condition: str) -> None:
    with pytest.raises(PermanentError):
        check_condition(condition)


def test_only_a_watermark_has_a_nonce() -> None:
    assert nonce_of(watermark("ab12")) == "ab12"
    assert [nonce_of(text) for text in ("", "{}", '{"notify": false}', '{"watermark": 1}', "[", "null")] == [""] * 6
