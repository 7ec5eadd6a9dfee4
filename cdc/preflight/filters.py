"""What preflight says of what does not arrive as it is: lost numbers, columns and origins that the settings name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import closing

from cdc import origins
from cdc.relation import Column, Relation
from cdc.rows import TablePlan
from cdc.runtime import postgres
from cdc.runtime.fields import quoted
from cdc.runtime.findings import Finding
from cdc.runtime.sections import SourceTable
from cdc.runtime.settings import Settings

#: Numbers as columns of their own: wal2json writes these as null when they are none. Arrays and domains keep them.
_NUMBERS = ("numeric", "real", "double precision")
_MODIFIER = re.compile(r"\(.*?\)")
#: CHECKs that hold only when each of their conditions does.
_CHECKS = """
    SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'
    AND convalidated AND pg_get_expr(conbin, conrelid) !~ '\\y(OR|NOT|CASE)\\y'
"""


def unknown_origins(connection: postgres.Connection, settings: Settings) -> Iterator[Finding]:
    """Look for the replication origins that are to be left out."""
    names = settings.source.skip_origins
    for name in sorted(set(names) - set(origins.ids(connection, names))):
        why = "source.skip_origins names it, and what is written under it would flow"
        remedy = (
            f"correct source.skip_origins, or SELECT pg_replication_origin_create('{name}') and start capture again"
        )
        yield Finding("warning", f"there is no replication origin {name}", why, remedy)


def unknown_columns(table: SourceTable, relation: Relation) -> Iterator[Finding]:
    """Look for columns that the settings hold back and that are not there: a slip of the pen lets the right one out."""
    there = {column.name for column in relation.columns}
    for key in ("exclude", "hash", "mask", "allow"):
        if missing := sorted(set(getattr(table, key)) - there):
            what = f"{relation.name.sql()} has no column {', '.join(missing)}"
            why = f"source.tables.{key} names it, and the column that is meant may leave as it is"
            yield Finding("warning", what, why, f"correct source.tables.{key}")


def lost_numbers(connection: postgres.Connection, relation: Relation, planned: TablePlan) -> Iterator[Finding]:
    """Look for columns that may hold NaN or infinite numbers."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(_CHECKS, (relation.name.sql(),))
        checks = [check for (check,) in cursor]
    written = set(planned.written())
    exposed = [
        column.name
        for column in relation.columns
        if column.name in written and is_number(column.type) and not is_finite(column, checks)
    ]
    if exposed:
        name = relation.name.sql()
        tests = (f"ADD CHECK ({quoted(c)} > '-Infinity' AND {quoted(c)} < 'Infinity')" for c in exposed)
        yield Finding(
            "warning",
            f"{name}: NaN and infinite numbers in {', '.join(exposed)} would arrive as null",
            "wal2json writes them so; the snapshot has them",
            f"ALTER TABLE {name} {', '.join(tests)};",
        )


def is_number(type_name: str) -> bool:
    """Tell whether wal2json writes values of a type as numbers, and those that are none as null."""
    return _MODIFIER.sub("", type_name) in _NUMBERS


def is_finite(column: Column, checks: Iterable[str]) -> bool:
    """Tell whether CHECKs keep out what is no number: NaN is above every bound, and `<` keeps infinity out.

    Only plain comparisons with constants, joined by AND, are understood.
    """
    name = rf'(?:{re.escape(column.name)}|"{re.escape(column.name)}")'
    condition = re.compile(rf"\(*{name} (<>|[<>]=?) \(?'?(-?[\w.]+)'?\)?(?:::[\w ]+)?\)*")
    found = {
        match.groups() for check in checks for part in check.split(" AND ") if (match := condition.fullmatch(part))
    }
    above = any(sign in ("<", "<=") and _is_number(to) for sign, to in found) or ("<", "Infinity") in found
    if "(" in column.type:  # a numeric with a precision has no infinity
        return above or ("<>", "NaN") in found
    below = any(sign in (">", ">=") and _is_number(to) for sign, to in found) or (">", "-Infinity") in found
    return above and below


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[\d.]+", text) is not None
