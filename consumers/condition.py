"""The operator's `--where`: one SQL condition over the columns of delivery and event. Pure."""

from __future__ import annotations

import re

#: What can hold a quote, a bracket or a number that is none. Source: PostgreSQL's "Lexical Structure".
_TOKEN = re.compile(
    r"""
    (?P<name>"(?:[^"]|"")*" | [A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*(?!['\w])) |
    (?P<literal>
        [eE]'(?:[^'\\]|\\.|'')*' |
        (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*' |
        (?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag) |
        \d+(?:\.\d+)?(?:[eE][+-]?\d+)?
    ) |
    (?P<forbidden>; | -- | /\* | ['"$]) |
    (?P<bracket>[()])
    """,
    re.VERBOSE | re.DOTALL,
)


def fault(sql: str) -> str:
    """Say why a text is no single condition; empty: it is one, as far as brackets, quotes and semicolons tell."""
    depth = 0
    for token in _TOKEN.finditer(sql):
        if token["forbidden"]:
            return f"{token[0]} has no place in a condition, or a quote is not closed"
        depth += {"(": 1, ")": -1}.get(token["bracket"] or "", 0)
        if depth < 0:
            break
    if depth:
        return "its brackets do not match"
    return "" if sql.strip() else "it is empty"


def masked(sql: str) -> str:
    """Write a condition without its literals, as the audit trail keeps it: they may be users' values."""
    return _TOKEN.sub(lambda token: "?" if token["literal"] else token[0], sql)
