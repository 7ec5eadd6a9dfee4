"""What the ledger costs: time and server CPU of claim, mark and store, from a short backlog to a million unfinished.

    python -m tests.bench.ledger [SIZE ...]      default: 1000 1000000; one key holds a tenth of them

Starts a PostgreSQL of its own, as durable as its defaults make it. `ms` is the median of one transaction as the
consumer sees it, `p99` its slow end, `cpu` the milliseconds of the server's CPU that one delivery takes.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from consumers.delivery import Mark
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.operations import Filter, Operations
from consumers.outcome import Sent
from deploy.local.process import stat_fields
from deploy.local.servers import LocalPostgres
from tests.support import local
from tests.support.database import Database, fresh
from tests.support.ledgers import LANE, RULES, entry

BATCH = 16
POLLS = 50
SENT = Sent({"message_id": "<0123456789abcdef0123456789abcdef@example.org>", "reply": "250 2.0.0 Ok: queued as 4F1"})
#: A tenth of the deliveries belongs to one key, the others have two each.
_FILL = """
    INSERT INTO pgherald.event (event_id, topic, partition, record_offset, committed_at, envelope)
    SELECT 'b:1:' || lpad(to_hex(n), 16, '0') || ':1', 'b.public.User', 0, n, now(), jsonb_build_object(
        'op', 'c', 'before', null, 'after', jsonb_build_object(
            'id', n, 'username', 'User ' || n, 'email', 'user' || n || '@example.org', 'plan', 'free',
            'created_at', now(), 'biography', repeat('x', 200)),
        'source', jsonb_build_object('version', '0.1.0', 'connector', 'postgresql', 'name', 'b', 'ts_ms', 1,
            'schema', 'public', 'table', 'User', 'lsn', n, 'txId', n, 'snapshot', 'false'))
    FROM generate_series(1, %(size)s) AS n;
    INSERT INTO pgherald.delivery (
        consumer, event_id, rule, target, lane, key, position_lsn, position_index, head, state)
    SELECT 'mail', 'b:1:' || lpad(to_hex(n), 16, '0') || ':1', 'welcome', 'welcome', 'mail:welcome', key,
        '0/0'::pg_lsn + n, 1, row_number() OVER (PARTITION BY key ORDER BY n) = 1, 'pending'
    FROM (SELECT n, CASE WHEN n %% 10 = 0 THEN 'hot' ELSE 'k' || n / 2 END AS key
        FROM generate_series(1, %(size)s) AS n) AS keyed
    ORDER BY n;
"""

Figures = dict[str, dict[str, float]]


class Cpu:
    """The CPU time of the server's processes that are there from the moment it is made to the last look."""

    def __init__(self, server: LocalPostgres) -> None:
        self._server = server
        self._began = self._ticks()

    def ms(self) -> float:
        now = self._ticks()
        return sum(now[pid] - self._began[pid] for pid in now.keys() & self._began) / os.sysconf("SC_CLK_TCK") * 1000

    def _ticks(self) -> dict[int, int]:
        processes = self._server.process.tree() if self._server.process else []
        return {process.pid: _ticks_of(process.pid) for process in processes}


def _ticks_of(pid: int) -> int:
    with suppress(OSError):  # ended meanwhile
        return sum(map(int, stat_fields(Path(f"/proc/{pid}/stat"))[11:13]))
    return 0


@dataclass
class Times:
    """How long each of several equal steps took."""

    all_ms: list[float] = field(default_factory=list)
    _began: float = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.all_ms.append((time.perf_counter() - self._began) * 1000)

    def figures(self) -> dict[str, float]:
        slow = sorted(self.all_ms)[int(len(self.all_ms) * 0.99)]
        return {"ms": round(statistics.median(self.all_ms), 2), "p99": round(slow, 2)}


def deliver(ledger: Ledger, turns: int, at_once: int) -> Iterator[dict[str, float]]:
    """Claim, mark `sending`, mark `sent`, turn by turn; give the figures of the three."""
    claims, sendings, sents = Times(), Times(), Times()
    for _ in range(turns):
        with claims:
            claimed = ledger.claim({LANE: at_once}, RULES, at_once, 60)
        assert len(claimed) == at_once
        with sendings:
            assert len(ledger.sending([delivery.id for delivery in claimed])) == at_once
        with sents:
            assert len(ledger.mark([Mark(delivery, SENT, ledger.worker) for delivery in claimed])) == at_once
    yield from (claims.figures(), sendings.figures(), sents.figures())


def delivering(server: LocalPostgres, ledger: Ledger, turns: int, at_once: int) -> Figures:
    """Deliver one at a time, as a quiet mailer does, or many, as a busy one whose marks gather."""
    ledger.unfinished()  # opens its session
    cpu = Cpu(server)
    claim, sending, sent = deliver(ledger, turns, at_once)
    each = {"cpu": round(cpu.ms() / (turns * at_once), 3)}
    return {f"claim {at_once}": claim, f"sending {at_once}": sending, f"sent {at_once}": sent | each}


def hot_key(ledger: Ledger, database: Database, turns: int) -> Figures:
    """Let one key alone be due: each claim takes its head, each mark promotes the next of a hundred thousand."""
    database.execute("UPDATE pgherald.delivery SET due_at = 'infinity' WHERE head AND key <> 'hot'")
    database.execute("VACUUM ANALYZE pgherald.delivery")
    claim, _, sent = deliver(ledger, turns, 1)
    return {"hot claim": claim, "hot sent": sent}


def pinned(ledger: Ledger, database: Database, turns: int) -> Figures:
    """Deliver while someone's long transaction keeps every dead row: a dump, a snapshot, a forgotten session."""
    with closing(database.connect()) as session, session.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgherald.lane")
        list(deliver(ledger, turns, BATCH))
        claim, *_ = deliver(ledger, turns, BATCH)
    return {f"pinned claim {BATCH}": claim}


def storing(server: LocalPostgres, ledger: Ledger, size: int) -> Figures:
    """Store polls of a hundred new events."""
    stores, cpu = Times(), Cpu(server)
    for first in range(size + 1, size + 1 + POLLS * 100, 100):
        polled = [entry(lsn, f"k{lsn}", event_id=f"b:1:{lsn:016x}:1") for lsn in range(first, first + 100)]
        with stores:
            ledger.store(polled)
    return {"store 100": stores.figures() | {"cpu": round(cpu.ms() / (POLLS * 100), 3)}}


def looking(dsn: str) -> Figures:
    """Ask what an operator asks."""
    operations = Operations(dsn)
    asked: dict[str, Callable[[], object]] = {
        "list": lambda: list(operations.find(Filter(), 50)),
        "list --state dead": lambda: list(operations.find(Filter(states=["dead"]), 50)),
        "list --key": lambda: list(operations.find(Filter(key="k17"), 50)),
        "list --where": lambda: list(operations.find(Filter(where="envelope->'after'->>'email' = 'nobody'"), 50)),
        "count by reason": lambda: operations.count_by_reason(Filter(lane=LANE)),
        "lanes list": operations.lanes,
        "deliveries by state": operations.states,
    }
    found = {}
    with closing(operations):
        for name, ask in asked.items():
            times = Times()
            for _ in range(3):
                with times:
                    ask()
            found[name] = {"ms": times.figures()["ms"]}
    return found


def measure(server: LocalPostgres, size: int) -> Figures:
    """Fill a fresh ledger and measure it."""
    turns = min(400, size // 20)
    with fresh(server, f"bench{size}") as database:
        migrate(database.dsn)
        database.execute(_FILL, {"size": size})
        for table in ("delivery", "event"):
            database.execute(f"VACUUM ANALYZE pgherald.{table}")
        database.execute("CHECKPOINT")
        with closing(Ledger(database.dsn, "mail", "bench")) as ledger:
            found = looking(database.dsn) | delivering(server, ledger, turns, 1)
            found |= delivering(server, ledger, turns // 4, BATCH) | storing(server, ledger, size)
            return found | pinned(ledger, database, turns // 4) | hot_key(ledger, database, turns // 2)


def main(arguments: Sequence[str]) -> None:
    """Measure each size; print a line a figure, then all as JSON."""
    # No autovacuum: it would run in the figures of one size and not in the other's.
    with local.postgres({"autovacuum": "off", "fsync": "on"}) as server:
        figures = {size: measure(server, size) for size in map(int, arguments or ("1000", "1000000"))}
    for name in next(iter(figures.values())):
        click.echo(f"{name:20}" + "   ".join(f"{size:>9}: {_said(each[name])}" for size, each in figures.items()))
    click.echo(json.dumps(figures))


def _said(figures: dict[str, float]) -> str:
    return " ".join(f"{what} {figure:8}" for what, figure in figures.items())


if __name__ == "__main__":
    main(sys.argv[1:])
