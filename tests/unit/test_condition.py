"""The operator's condition: what may stand in it, and what of it is kept."""

import re

import pytest

from consumers import condition


@pytest.mark.parametrize(
    "sql",
    [
        "true",
        "key LIKE '%;--%'",
        "error->>'reason' = 'it''s ('",
        "envelope->'after'->>'name' = E'\\');'",
        "reason = $$a ; ' ( b$$ AND (1 = 1)",
        '"weird ; "" column" = 1',
        "attempt > 3 AND (state = 'dead' OR state = 'unknown')",
    ],
)
def test_a_condition_is_taken(sql: str) -> None:
    assert condition.fault(sql) == ""


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("true; DELETE FROM pgherald.delivery", "; has no place"),
        ("true) OR (true", ""),
        ("true -- and the rest", "-- has no place"),
        ("true /* and", r"/\* has no place"),
        ("key = 'a", "quote is not closed"),
        ("(true", "brackets do not match"),
        ("true)", "brackets do not match"),
        (") OR (true", "brackets do not match"),
        ("  ", "empty"),
    ],
)
def test_what_is_more_or_less_than_a_condition_is_not(sql: str, why: str) -> None:

    assert re.search(why, condition.fault(sql))
    assert condition.fault(sql)


@pytest.mark.parametrize(
    ("sql", "kept"),
    [
        ('key = \'{"id":"ada"}\'', "key = ?"),
        ("envelope->'after'->>'email' = E'a\\'da@x.org'", "envelope->?->>? = ?"),
        ("key = $q$ada$q$ OR key = N'ada'", "key = ? OR key = ?"),
        ("attempt > 3 AND due_at < now() - interval '2 h'", "attempt > ? AND due_at < now() - interval ?"),
        ('"a column" IN (1.5, 2e3, t1.x)', '"a column" IN (?, ?, t1.x)'),
    ],
)
def test_no_literal_is_kept(sql: str, kept: str) -> None:
    assert condition.masked(sql) == kept
