"""What the audit trail keeps of a command: enough to see what was asked for, and no value of a row."""

from __future__ import annotations

import hashlib

from consumers import condition
from consumers.operations import Filter

#: So many ids are kept one by one; of more, how many.
_IDS_MOST = 100


def pseudonym(key: str) -> str:
    """Write a key so that who knows it can find it again, and nobody can read it."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()[:32]


def asked(wanted: Filter) -> dict[str, object]:
    """Write a filter as the trail keeps it: a key hashed, a condition without its literals."""
    ids = list(wanted.ids) if wanted.ids and len(wanted.ids) <= _IDS_MOST else len(wanted.ids or ())
    said: dict[str, object] = {
        "ids": ids,
        "states": wanted.states,
        "rule": wanted.rule,
        "lane": wanted.lane,
        "key": pseudonym(wanted.key) if wanted.key is not None else None,
        "since": wanted.since,
        "where": condition.masked(wanted.where) if wanted.where != "true" else None,
    }
    return {name: value for name, value in said.items() if value}
