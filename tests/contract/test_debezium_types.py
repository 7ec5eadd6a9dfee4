"""Every type is rendered as Debezium's connector renders it, from the snapshot and from the stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.database import Database, fresh
from tests.support.rendering import renderer
from tests.support.servers import PostgresServer

GOLDEN = Path(__file__).parent / "debezium"
#: One literal and what became of it; without `value` where Debezium leaves the column out.
Case = dict[str, Any]
CASES: list[Case] = [json.loads(line) for line in (GOLDEN / "types.jsonl").read_text().splitlines()]

#: (column, literal, or None for any) -> why we write another value than Debezium.
MEANT = {
    ("vb1", ""): "an empty bit string is not null",
    ("ttz", "12:00:00-15:59:59"): "an offset with seconds is kept",
    ("nm", None): "a name is text in the stream too",
    ("iv2", None): "a vector is text, not empty",
    ("ov", None): "a vector is text, not empty",
    ("f4", "1e-45"): "PostgreSQL's shortest text of the float",
    ("nneg", None): "no digits are made up behind the point",
    ("a_bit3", None): "elements are kept",
    ("a_bit1", None): "elements are kept",
    ("a_box", None): "elements are kept",
    ("a_ci", None): "elements are kept",
    ("a_nest", None): "nested arrays are kept",
}


@pytest.fixture(scope="module")
def rendered(postgres: PostgresServer) -> Iterator[list[tuple[Case, Any, Any]]]:
    """Render every case both ways."""
    with fresh(postgres, "ttypes") as database:
        database.execute((GOLDEN / "types.sql").read_text())
        yield list(_rendered(database))


def _rendered(database: Database) -> Iterator[tuple[Case, Any, Any]]:
    with renderer(database) as made:
        for table in ("types", "arrays"):
            cases = [case for case in CASES if case["table"] == table]
            inserted = [{"id": number, case["column"]: case["literal"]} for number, case in enumerate(cases)]
            for case, (copied, streamed) in zip(cases, made.both(table, inserted), strict=True):
                yield case, copied[case["column"]], streamed[case["column"]]


def test_snapshot_and_stream_agree(rendered: list[tuple[Case, Any, Any]]) -> None:
    assert [(case, copied, streamed) for case, copied, streamed in rendered if copied != streamed] == []


def test_what_debezium_writes_is_written_but_for_what_is_meant(rendered: list[tuple[Case, Any, Any]]) -> None:
    unmeant = [
        (case, streamed)
        for case, _, streamed in rendered
        if "value" in case and case["value"] != streamed and not _is_meant(case)
    ]
    assert unmeant == []


def test_what_debezium_leaves_out_or_loses_is_never_null(rendered: list[tuple[Case, Any, Any]]) -> None:
    assert [case for case, _, streamed in rendered if streamed is None] == []


def test_nothing_is_meant_in_vain(rendered: list[tuple[Case, Any, Any]]) -> None:
    differ = {(case["column"], case["literal"]) for case, _, streamed in rendered if case.get("value") != streamed}
    assert [
        place for place in MEANT if not any(place in ((column, literal), (column, None)) for column, literal in differ)
    ] == []
    assert len(rendered) == len(CASES) > 240


def _is_meant(case: Case) -> bool:
    return (case["column"], case["literal"]) in MEANT or (case["column"], None) in MEANT
