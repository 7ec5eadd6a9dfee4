"""A template and its places."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.template import Template, object_template


@given(st.lists(st.binary(), min_size=1))
def test_a_template_writes_what_formatting_writes(constants: list[bytes]) -> None:
    text = b"%b".join(constant.replace(b"%", b"%%") for constant in constants)
    values = [b"%d" % place for place in range(len(constants) - 1)]
    assert Template(text).fill(values) == text % tuple(values)


@pytest.mark.parametrize("values", [[], [b"1"], [b"1", b"2", b"3"]])
def test_a_value_too_many_or_too_few_is_an_error(values: list[bytes]) -> None:
    with pytest.raises(ValueError, match="size"):
        Template(b"%b and %b").fill(values)


def test_a_filled_template_leaves_nothing_for_the_next_row() -> None:
    template = Template(object_template([(b'"a":', b"%b"), (None, b"%b"), (b'"%":', b"%b")]))
    assert template.fill([b"1", b"", b"2"]) == b'{"a":1,"%":2}'
    assert template.fill([b"3", b"", b"4"]) == b'{"a":3,"%":4}'
