"""The delivery ledger in PostgreSQL: one row per (event, rule, target), one row one effect. SQL is in ledger.sql.

A transition happens only for the worker that holds the lease; heads are promoted in the transaction that finishes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from cdc.runtime import postgres
from cdc.runtime.errors import ServiceError
from cdc.runtime.log import get_logger
from consumers import breaker, columns, queries
from consumers.columns import Queue
from consumers.delivery import Delivery, Entry, Leased, Mark
from consumers.events import Record
from consumers.fronts import Fronts
from consumers.outcome import Outcome, is_answered, rest_of

__all__ = ["Delivery", "Ledger"]

#: The space of our advisory locks: "pghe".
LOCK = 0x70676865
#: How much of a lease must be left when the final dot is written.
DOT_S = 5.0

#: A paused process would keep its locks, and every other one waiting: the server ends its session. LOCAL: the session
#: may be a pooler's.
_ALONE_AT_MOST = "SET LOCAL idle_in_transaction_session_timeout = '5s'"

_FILES = ("ledger.sql", "lost.sql", "payloads.sql", "operate.sql")
_SQL = {name: query for file in _FILES for name, query in queries.load(file).items()}
#: SQLSTATE classes of a value that a type can't hold, and of limits: text that is JSON but no jsonb.
_UNFIT = ("22", "54")

#: How many events one transaction of the retention looks at: storing waits for it.
_RETIRED = 500

#: Where the retention stands: an event's commit time and id.
Page = tuple[datetime, str]

_log = get_logger("ledger")

#: Runs a named query with its values and gives the rows.
Run = Callable[[str, Mapping[str, object]], list[Any]]


class Ledger:
    """The ledger as one consumer sees it, over one connection: for one thread.

    A lost connection is opened again at the next call. Raises errors of cdc.runtime.errors: RetryableError when the
    same call may succeed later; nothing was changed then, or (at the end of a transaction) all was.
    """

    def __init__(self, dsn: str, consumer: str, worker: str = "") -> None:
        self.consumer = consumer
        self.worker = worker
        self._dsn = dsn
        self._connection: postgres.Connection | None = None
        self._fronts = Fronts()

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def store(self, entries: Sequence[Entry]) -> list[tuple[str, str]]:
        """Store events and their deliveries, all or nothing; give (rule, state) of those that are new.

        What is stored already stays as it is. A crash after this and before the offsets are committed therefore reads
        the same records again and changes nothing.
        """
        unique = {entry.event_id: entry for entry in entries}.values()
        try:
            return self._store([(entry, entry.readable) for entry in unique])
        except ServiceError as exc:
            if not _is_unfit(exc):
                raise
        return self._store([(entry, entry.readable and self._takes_json(entry.value)) for entry in unique])

    def _store(self, entries: Sequence[tuple[Entry, bool]]) -> list[tuple[str, str]]:
        rows = [(entry, planned) for entry, _ in entries for planned in entry.planned]
        with self._transaction() as run:
            run("share_payloads", {"lock": LOCK})
            self._lock(run, [(planned.lane, entry.key) for entry, planned in rows if planned.state == "pending"])
            stored = run("store_deliveries", columns.of_planned(rows))
            # Of what is stored anew only: a topic that is read again brings back nothing that has left, or was erased.
            wanted = {event_id for event_id, _, _ in stored}
            if events := [(entry, as_json) for entry, as_json in entries if entry.event_id in wanted]:
                run("store_events", columns.of_events(events))
            return [(rule, state) for _, rule, state in stored]

    def _takes_json(self, value: bytes) -> bool:
        """Ask PostgreSQL whether a value fits jsonb: NUL characters, numbers and depth have limits of its own."""
        try:
            self._run("takes_json", {"text": value.decode()})
        except (ServiceError, ValueError) as exc:
            if isinstance(exc, ServiceError) and not _is_unfit(exc):
                raise
            return False
        return True

    def record(self, event_id: str) -> Record | None:
        """Give a record that did not decode, as Kafka gave it; None when it has left."""
        rows = self._run("record", {"event_id": event_id})
        return columns.record(rows[0]) if rows else None

    def unfinished(self) -> int:
        """Count the unfinished deliveries of this consumer."""
        return int(self._run("count_unfinished")[0][0])

    def claim(self, room: Mapping[str, int], rules: Sequence[str], most: int, lease_s: float) -> list[Delivery]:
        """Take due deliveries: at most `room` of each lane, `most` in all, of these rules only.

        A crash just after: the lease runs out and they are pending again, the attempt spent. An answer that was lost:
        `unheard` has them.
        """
        rows = self._run(
            "claim",
            {"lanes": list(room), "rooms": list(room.values()), "rules": list(rules), "room": most}
            | {"lease_s": lease_s, "worker": self.worker, "sinces": self._fronts.sinces(room)},
        )
        claimed = [columns.delivery(row[:-1]) for row in rows]
        self._fronts.claimed((delivery.lane, row[-1]) for delivery, row in zip(claimed, rows, strict=True))
        return claimed

    def renew(self, ids: Sequence[int], lease_s: float) -> set[int]:
        """Renew our leases of these deliveries, one statement for all; give those that are still ours."""
        rows = self._run("renew", {"ids": list(ids), "worker": self.worker, "lease_s": lease_s})
        return {row[0] for row in rows}

    def expired(self, rules: Sequence[str]) -> list[Leased]:
        """Find deliveries of these rules whose lease ran out."""
        return [Leased(*row) for row in self._run("expired", {"rules": list(rules)})]

    def unheard(self, held: Sequence[int]) -> list[Leased]:
        """Find what was claimed and is not among what the worker holds."""
        return [Leased(*row) for row in self._run("unheard", {"held": list(held), "worker": self.worker})]

    def sending(self, ids: Sequence[int]) -> set[int]:
        """Record that the final dots of these mails are about to leave; give those that may.

        A crash just before: nothing was sent, and the lease's end gives them back. A crash just after, whether a dot
        left or not: the lease's end makes them unknown.
        """
        rows = self._run("sending", {"ids": list(ids), "worker": self.worker, "dot_s": DOT_S})
        return {row[0] for row in rows}

    def mark(self, marks: Sequence[Mark]) -> set[int]:
        """Record outcomes, all in one transaction; give the deliveries that were still the worker's to change.

        A crash just before: the effect may have happened and is not recorded, which the lease's end settles (`sending`
        becomes unknown, `claimed` is tried again). A crash just after: all is recorded, the next head too.
        """
        # Rows in the order of their ids, lanes in that of their names: no two processes lock them crosswise.
        marks = sorted(marks, key=lambda mark: mark.delivery.id)
        if not any(map(_concerns_lane, marks)):
            return self._mark(self._run, marks)
        with self._transaction() as run:
            kept = self._mark(run, marks)
            self._mark_lanes(run, [mark for mark in marks if mark.delivery.id in kept])
            return kept

    def _mark(self, run: Run, marks: Sequence[Mark]) -> set[int]:
        queues = columns.queues_of([mark for mark in marks if mark.finishes])
        values = columns.of_marks(marks) | columns.of_queues(queues) | {"lock": LOCK}
        return {row[0] for row in run("mark", values)}

    def _mark_lanes(self, run: Run, marks: Sequence[Mark]) -> None:
        """Sorted by lane: two transactions never wait for each other crosswise."""
        for mark in sorted(marks, key=lambda mark: mark.delivery.lane):
            self._mark_lane(run, mark.delivery, mark.outcome)
        for lane, tally in breaker.tally(marks).items():
            for alike, whom in tally.failed:
                self._count_alike(run, lane, alike, whom)

    def _count_alike(self, run: Run, lane: str, alike: str, whom: str) -> None:
        ((count,),) = run("count_alike", {"lane": lane, "alike": alike, "whom": whom})
        if count < breaker.ALIKE_MAX:
            return
        for (reason,) in run("stop_lane", {"lane": lane, "reason": breaker.reason(lane, alike)}):
            _log.error("lane_stopped", lane=lane, reason=reason)

    def _mark_lane(self, run: Run, delivery: Delivery | Leased, outcome: Outcome) -> None:
        lane = {"lane": delivery.lane, "failures": delivery.lane_failures}
        pause_s, reason = rest_of(outcome) or (None, None)
        if pause_s == math.inf:
            run("stop_lane", {"lane": delivery.lane, "reason": reason})
        elif pause_s is not None:
            run("fail_lane", lane | {"pause_s": pause_s, "reason": reason})
        elif delivery.lane_failures:
            # Without an answer nothing is known about the dependency yet: the lane stays as it is for the next probe.
            run("clear_lane" if is_answered(outcome) else "release_probe", lane)

    def marked(self, marks: Sequence[Mark]) -> set[int]:
        """Tell which of these outcomes are recorded although `mark` did not take them: its answer was lost before."""
        ids, states = [mark.delivery.id for mark in marks], [mark.state for mark in marks]
        attempts = [mark.delivery.attempt for mark in marks]
        return {row[0] for row in self._run("marked", {"ids": ids, "states": states, "attempts": attempts})}

    @contextmanager
    def changing(self, queues: Sequence[Queue], *, drops_payloads: bool = False) -> Iterator[Run]:
        """Let an operator change deliveries of these queues; a queue that is left without a head gets one."""
        with self._transaction() as run:
            if drops_payloads:
                run("own_payloads", {"lock": LOCK})
            self._lock(run, queues)
            yield run
            run("promote", columns.of_queues(queues))

    def ask(self, name: str, values: Mapping[str, object]) -> list[Any]:
        """Run one of the operator's statements as a transaction of its own."""
        return self._run(name, values)

    def retire(self, days: int, after: Page) -> tuple[Page, int] | None:
        """Remove payloads, the next ones after a page, of which every delivery ended more than `days` ago.

        Gives the page that was looked at and how many left; None at the end, or while another process does it.
        """
        with self._transaction() as run:
            if not run("only_one", {"lock": LOCK})[0][0]:
                return None
            run("own_payloads", {"lock": LOCK})
            found = run("retire", {"days": days, "after_at": after[0], "after_id": after[1], "most": _RETIRED})
            return ((found[0][0], found[0][1]), int(found[0][2])) if found else None

    def retire_links(self, kept: timedelta) -> int:
        """Remove the records of links that were used longer ago; tell how many."""
        return int(self._run("retire_links", {"kept": kept})[0][0])

    def had(self, keys: Sequence[str]) -> set[tuple[str, str, str]]:
        """Give (key, rule, target) of what these keys ever had, in whatever state."""
        return {(row[0], row[1], row[2]) for row in self._run("had", {"keys": list(keys)})}

    def figures(self) -> list[tuple[str, int, float]]:
        """Give (lane, unfinished deliveries, age of the oldest in seconds) of each lane that has some."""
        return self._run("lane_figures")

    def paused_lanes(self) -> set[str]:
        """Name the lanes that are paused now."""
        return {row[0] for row in self._run("paused_lanes")}

    def orphans(self, rules: Sequence[str]) -> list[tuple[str, int]]:
        """Count the unfinished deliveries of other rules than these, by rule."""
        return self._run("orphans", {"rules": list(rules)})

    def in_doubt(self) -> list[tuple[str, int]]:
        """Count the deliveries in state unknown by rule."""
        return self._run("in_doubt")

    def _lock(self, run: Run, queues: Sequence[Queue]) -> None:
        if queues:
            run("lock_queues", {"lock": LOCK} | columns.of_queues(queues))

    def _run(self, name: str, values: Mapping[str, object] | None = None) -> list[Any]:
        """Run one statement as a transaction of its own."""
        with postgres.errors(), self._open().cursor() as cursor:
            return _execute(cursor, name, {"consumer": self.consumer, **(values or {})})

    @contextmanager
    def _transaction(self) -> Iterator[Run]:
        """Run several statements, all or nothing. A process that is paused in between holds nobody up for long."""
        with postgres.errors(), self._open() as connection, connection.cursor() as cursor:
            cursor.execute(_ALONE_AT_MOST)
            yield lambda name, values: _execute(cursor, name, {"consumer": self.consumer, **values})

    def _open(self) -> postgres.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = postgres.connect(self._dsn, application_name=f"pgherald {self.consumer}")
            # Said in each BEGIN, before autocommit, which would SET it for the session: the locks of queues rely on it,
            # and a database may have another default.
            self._connection.isolation_level = "READ COMMITTED"
            self._connection.autocommit = True
        return self._connection


def _execute(cursor: Any, name: str, values: Mapping[str, object]) -> list[Any]:
    cursor.execute(_SQL[name], values)
    return cursor.fetchall() if cursor.description else []


def _concerns_lane(mark: Mark) -> bool:
    """Tell whether an outcome says more of its lane than that someone succeeded, which its own statement records."""
    rests = rest_of(mark.outcome) is not None
    return rests or bool(mark.delivery.lane_failures) or breaker.is_counted(mark.outcome)


def _is_unfit(error: ServiceError) -> bool:
    return str(error.fields.get("sqlstate", "")).startswith(_UNFIT)
