"""Which CHECKs keep out the numbers that wal2json writes as null."""

import pytest

from cdc.preflight.filters import is_finite, is_number
from cdc.relation import Column


@pytest.mark.parametrize(
    ("type_", "check", "finite"),
    [
        ("double precision", "((x > '-Infinity'::double precision) AND (x < 'Infinity'::double precision))", True),
        ("numeric", "((x >= (0)::numeric) AND (x <= (100)::numeric))", True),
        ("numeric", "((x >= '-0.5'::numeric) AND (x < 99.5))", True),
        ("real", "((x > '-Infinity'::real) AND (x <= 'Infinity'::real))", False),
        ("real", "((x >= (0)::double precision) AND (x < 'NaN'::real))", False),
        ("numeric", "(x >= (0)::numeric)", False),
        ("numeric", "(x <= (9)::numeric)", False),
        ("numeric", "(x <> 'NaN'::numeric)", False),
        ("numeric(12,2)", "(x <> 'NaN'::numeric)", True),
        ("numeric(12,2)", "(x <= (9)::numeric)", True),
        ("numeric(12,2)", "(x >= (9)::numeric)", False),
        ("numeric", "((y >= (0)::numeric) AND (y <= (100)::numeric))", False),
        ("numeric", "((abs(x) >= (0)::numeric) AND (abs(x) <= (100)::numeric))", False),
    ],
)
def test_a_number_with_bounds_is_one(type_: str, check: str, finite: bool) -> None:
    assert is_finite(Column("x", type_, type_, toastable=False), [check]) is finite


@pytest.mark.parametrize("type_", ["numeric", "numeric(12,2)", "real", "double precision"])
def test_a_column_of_numbers_may_lose_some(type_: str) -> None:
    assert is_number(type_)
    assert not is_number(type_ + "[]")
