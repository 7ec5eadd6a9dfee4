"""The SQL of the consumers: named queries in the .sql files beside this module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PART = re.compile(r"\{(\w+)\}")


def load(file: str) -> dict[str, str]:
    """Read the queries of a file by name. Comments stay behind: a % in one is no parameter.

    `{name}` stands for another query of the file, a part that several have.
    """
    text = (Path(__file__).parent / file).read_text()
    _, *parts = _NAME.split(text)
    queries = {name: _without_comments(query) for name, query in zip(parts[::2], parts[1::2], strict=True)}
    return {name: _filled(query, queries) for name, query in queries.items()}


def _filled(query: str, parts: Mapping[str, str]) -> str:
    return _PART.sub(lambda part: _filled(parts[part[1]], parts) if part[1] in parts else part[0], query)


def _without_comments(query: str) -> str:
    return "\n".join(line for line in query.strip().splitlines() if not line.lstrip().startswith("--"))
