"""The SQL of the consumers: named queries in the .sql files beside this module."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(file: str) -> dict[str, str]:
    """Read the queries of a file by name. Comments stay behind: a % in one is no parameter."""
    text = (Path(__file__).parent / file).read_text()
    _, *parts = _NAME.split(text)
    return {name: _without_comments(query) for name, query in zip(parts[::2], parts[1::2], strict=True)}


def _without_comments(query: str) -> str:
    return "\n".join(line for line in query.strip().splitlines() if not line.lstrip().startswith("--"))
