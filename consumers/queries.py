"""The SQL of the consumers: named queries in the .sql files beside this module."""

from __future__ import annotations

import re
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
    return {name: _PART.sub(lambda part: queries.get(part[1], part[0]), query) for name, query in queries.items()}


def _without_comments(query: str) -> str:
    return "\n".join(line for line in query.strip().splitlines() if not line.lstrip().startswith("--"))
