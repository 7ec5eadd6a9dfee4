"""The audit of a capture run: topics against commits, topics against tables, the positions record by record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

from cdc.contract.envelope import HEADER_NEW_KEY, UNAVAILABLE
from cdc.contract.position import position_of
from cdc.contract.topics import positions_topic
from tests.chaos.commits import Commits, digest
from tests.chaos.rounds import Report
from tests.support.audit import out_of_order, repeated
from tests.support.deployment import Deployment, Record

#: (n, email, wide), the last one hashed: what the audit keeps of a row.
Row = tuple[int, str | None, str | None]


class Told(NamedTuple):
    """What the audit keeps of a record, so that millions fit in memory."""

    topic: str
    partition: int
    offset: int
    event_id: str
    op: str
    key: str | None
    digest: str
    row: Row | None
    new_key: str | None
    #: The columns that it tells, with a `?` those that it says it can't.
    columns: str


class Positions:
    """The positions topic, record by record: read now and then, as Kafka compacts it."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._next = 0
        self.places: list[tuple[int, int, int]] = []

    def read(self) -> None:
        """Take the records that are new."""
        for record in self._deployment.stream_topic(positions_topic(self._deployment.name)):
            if record.offset >= self._next and record.value:
                self._next = record.offset + 1
                self.places.append((record.value["epoch"], record.value["lsn"], record.value["index"]))

    def gone_back(self) -> list[str]:
        """Name the records that stand before the one that was written before them."""
        return [f"{later} after {earlier}" for earlier, later in pairwise(self.places) if later < earlier]


def audit(report: Report, deployment: Deployment, commits: Commits) -> None:
    """Hold everything that capture left in Kafka against what was committed, and report what violates guarantee 1."""
    tables = {table: list(_told(deployment.stream(f"public.{table}"))) for table in commits.tables}
    everything = [told for of_table in tables.values() for told in of_table]
    report.facts["records, by operation"] = dict(Counter(told.op for told in everything))
    report.violated("events repeated", repeated(everything))
    report.violated("events out of order", out_of_order(everything))
    compare(report, everything, commits.events)
    for table, of_table in tables.items():
        report.violated(f"rows of {table} that the topic tells otherwise", _differing(deployment, table, of_table))


def compare(report: Report, everything: Sequence[Told], expected: dict[tuple[str, str], str]) -> None:
    """Hold what the topics say against what was committed, event by event."""
    said = {(told.event_id, told.op): told.digest for told in everything}
    report.violated("committed and not in Kafka", [" ".join(event) for event in expected if event not in said])
    report.violated("in Kafka and not committed", [" ".join(event) for event in said if event not in expected])
    wrong = {event for event, hashed in said.items() if expected.get(event, hashed) != hashed}
    differ = [f"{t.event_id} {t.op} ({t.columns})" for t in everything if (t.event_id, t.op) in wrong]
    report.violated("events that tell something else than was written", differ)


def replayed(everything: Iterable[Told]) -> dict[str, Row]:
    """Replay a topic as a consumer would: what is not available is what it was, also under the old key.

    In the order of commits: of a key change and of TRUNCATE the partitions' own order does not tell enough.
    """
    rows: dict[str, Row] = {}
    moved: dict[str, Row | None] = {}
    for told in sorted(everything, key=lambda each: (position_of(each.event_id), each.event_id.endswith(":c"))):
        if told.op == "t":
            rows.clear()
        elif told.key is not None and told.op != "tombstone":
            before = rows.pop(told.key, None) or moved.pop(told.key, None)
            if told.new_key:
                moved[told.new_key] = before
            if told.row:
                n, email, wide = told.row
                rows[told.key] = n, email, (before[2] if before else None) if wide == UNAVAILABLE else wide
    return rows


def _told(records: Iterable[Record]) -> Iterator[Told]:
    for record in records:
        value = record.value or {"before": None, "after": None}
        after = value["after"]
        yield Told(
            record.topic,
            record.partition,
            record.offset,
            record.event_id,
            record.op,
            record.key,
            digest(record.key, value["before"], after),
            (after["n"], after["email"], _hashed(after["wide"])) if after else None,
            record.headers.get(HEADER_NEW_KEY),
            " ".join(f"{name}?" if cell == UNAVAILABLE else name for name, cell in (after or {}).items()),
        )


def _hashed(wide: str | None) -> str | None:
    return wide if wide is None or wide == UNAVAILABLE else blake2b(wide.encode(), digest_size=8).hexdigest()


def _differing(deployment: Deployment, table: str, everything: Iterable[Told]) -> list[str]:
    found = deployment.database.execute(f"SELECT id, n, email, wide FROM {table}")
    rows = {json.dumps({"id": id_}, separators=(",", ":")): (n, email, _hashed(wide)) for id_, n, email, wide in found}
    told = replayed(everything)
    return [key for key in rows.keys() | told.keys() if rows.get(key) != told.get(key)]
