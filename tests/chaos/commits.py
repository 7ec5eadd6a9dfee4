"""What was committed, told by a slot of the auditor's own and read without any code of the reader's.

Lines are kept as short digests by position: a run of hours fits in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from cdc.contract.envelope import UNAVAILABLE
from tests.support.database import Database

_READ = "SELECT data FROM pg_logical_slot_get_changes(%s, NULL, NULL, VARIADIC %s)"
_OPTIONS = {"format-version": "2", "include-transaction": "1", "include-lsn": "1", "include-pk": "1"}
#: These never leave the reader.
_SECRET = ("password",)

Row = Mapping[str, Any] | None


def digest(key: str | None, before: Row, after: Row) -> str:
    """Hash what an event says. Of the old row only what it holds: what else it shows is null."""
    known = {name: value for name, value in before.items() if value is not None} if before else None
    text = json.dumps([key, known, after], sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass
class Commits:
    """Expected events, by (event id, op)."""

    database: Database
    source: str
    tables: Sequence[str]
    events: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slot = f"{self.source}_audit"
        self.database.execute("SELECT pg_create_logical_replication_slot(%s, 'wal2json')", (self.slot,))

    def read(self) -> None:
        """Take what was committed since; what a killed server gives again is the same."""
        filtered = {**_OPTIONS, "add-tables": ",".join(f"public.{table}" for table in self.tables)}
        options = [text for option in filtered.items() for text in option]
        with closing(self.database.connect()) as session, session.cursor() as cursor:
            cursor.execute(_READ, (self.slot, options))
            self._take(line for (line,) in cursor)

    def _take(self, lines: Iterable[str]) -> None:
        lsn, index = 0, 0
        for line in lines:
            change = json.loads(line)
            index += 1
            if change["action"] == "B":
                high, low = change["nextlsn"].split("/")
                lsn, index = int(high, 16) << 32 | int(low, 16), 0
            elif change["action"] in "IUDT":
                self.events.update(self._events(f"{self.source}:1:{lsn:016x}:{index}", change))

    def _events(self, id_: str, change: dict[str, Any]) -> dict[tuple[str, str], str]:
        columns, identity = _row(change, "columns"), _row(change, "identity")
        if change["action"] == "T":
            return {(id_, "t"): digest(None, None, None)}
        if change["action"] == "I":
            return {(id_, "c"): digest(_key(columns), None, columns)}
        if change["action"] == "D":
            return {(id_, "d"): digest(_key(identity), identity, None), (id_, "tombstone"): _tombstone(identity)}
        full = len(identity) > 1
        after = {**(identity if full else {"wide": UNAVAILABLE}), **columns}
        if identity and identity["id"] != columns["id"]:
            return {
                (f"{id_}:d", "d"): digest(_key(identity), identity, None),
                (f"{id_}:d", "tombstone"): _tombstone(identity),
                (f"{id_}:c", "c"): digest(_key(columns), None, after),
            }
        return {(id_, "u"): digest(_key(columns), identity if full else None, after)}


def _row(change: dict[str, Any], part: str) -> dict[str, Any]:
    return {column["name"]: column["value"] for column in change.get(part, []) if column["name"] not in _SECRET}


def _key(row: Mapping[str, Any]) -> str:
    return f'{{"id":{row["id"]}}}'


def _tombstone(identity: Mapping[str, Any]) -> str:
    return digest(_key(identity), None, None)
