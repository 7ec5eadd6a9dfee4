"""Capture side by side on the same data: pg_recvlogical (the limit), pgherald, Debezium with Kafka Connect.

    python -m tests.bench.capture [--scale 1.0] [--runs 3]      (make bench-capture)

Prints a table of medians and ratios, writes build/bench/capture.json and build/bench/capture.png. Every peer has its
own slot on the same rows; two marks around them are the clock, as a `read_committed` consumer sees them.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console

from deploy.local.net import until
from tests.bench import backlog, peers, report, topics, usage
from tests.bench.peers import Debezium, Peer, Pgherald, PgRecvlogical
from tests.support import database as databases
from tests.support import local
from tests.support.database import Database
from tests.support.servers import KafkaServer, PostgresServer

FOLDER = Path("build/bench")
_TIMEOUT_S = 900
console = Console(highlight=False, soft_wrap=True)


@dataclass
class Bench:
    """The servers, and every figure that was taken."""

    postgres: PostgresServer
    kafka: KafkaServer
    scale: float
    runs: int
    folder: Path
    figures: report.Figures = field(default_factory=lambda: report.Figures(console))

    @contextmanager
    def database(self) -> Iterator[Database]:
        with databases.fresh(self.postgres, "bench" + secrets.token_hex(3)) as made:
            backlog.create(made)
            yield made

    def peer(self, kind: str, database: Database) -> Peer:
        """Make a peer with a name of its own."""
        name = "b" + secrets.token_hex(3)
        if kind == Pgherald.kind:
            return Pgherald(name, self.folder / name, database, self.kafka)
        return Debezium(kind, name, self.folder / name, database, self.kafka)


def stream(bench: Bench, workload: str, rows: int, of_one: int) -> None:
    """Let each peer read the same backlog, in turns."""
    for run in range(bench.runs):
        console.print(f"[bold]{workload}: {rows:,} rows, {of_one:,} a transaction[/bold] (run {run + 1})")
        with bench.database() as database:
            limit = PgRecvlogical("limit", database)
            limit.prepare()
            readers = [bench.peer(kind, database) for kind in ("pgherald", "debezium", "debezium-tuned")]
            for reader in readers:
                peers.prepare(reader)
            end = backlog.fill(database, rows, of_one)
            bench.figures.note(workload, "pg_recvlogical", rows_per_s=rows / limit.read_s(end))
            for reader in readers:
                _read_backlog(bench, workload, reader, rows)


def _read_backlog(bench: Bench, workload: str, peer: Peer, rows: int) -> None:
    marks = topics.Marks(peer.kafka.bootstrap, peers.topic(peer, "mark"))
    began = time.monotonic()
    peer.start(snapshot=False)
    first = marks.until("begin", 120)
    used_s = usage.cpu_s(peer.pid)
    seconds = marks.until("end", _TIMEOUT_S) - first
    bench.figures.note(
        workload,
        peer.kind,
        rows_per_s=rows / seconds,
        cpu_s_per_million=(usage.cpu_s(peer.pid) - used_s) / rows * 1e6,
        peak_mib=usage.peak_mib(peer.pid),
        first_event_s=first - began,
    )
    peer.stop()
    if (found := topics.count(peer.kafka.bootstrap, peers.topic(peer, "User"))) < rows:
        raise RuntimeError(f"{peer.kind} published {found} of {rows} rows")


def snapshot(bench: Bench, rows: int) -> None:
    """Let each peer read the rows of a table that is there already."""
    for run in range(bench.runs):
        console.print(f"[bold]snapshot of {rows:,} rows[/bold] (run {run + 1})")
        with bench.database() as database:
            backlog.rows(database, rows)
            for kind in ("pgherald", "debezium", "debezium-tuned"):
                _read_table(bench, bench.peer(kind, database), rows)


def _read_table(bench: Bench, peer: Peer, rows: int) -> None:
    """From the first visible rows to the last; a transaction's markers (0.1 % of the offsets at most) count as rows."""
    with closing(topics.reader(peer.kafka.bootstrap)) as client:
        began = time.monotonic()
        peer.start(snapshot=True)
        topic = peers.topic(peer, "User")
        until(lambda: topics.ends(client, topic) > 0, 120, f"{peer.kind} to publish a row", every_s=0.02)
        first, used_s, left = time.monotonic(), usage.cpu_s(peer.pid), rows - topics.ends(client, topic)
        until(lambda: topics.ends(client, topic) >= rows, _TIMEOUT_S, f"{peer.kind} to publish all", every_s=0.02)
        seconds = time.monotonic() - first
    figures = {"rows_per_s": left / seconds, "cpu_s_per_million": (usage.cpu_s(peer.pid) - used_s) / left * 1e6}
    bench.figures.note("snapshot", peer.kind, **figures, peak_mib=usage.peak_mib(peer.pid), first_event_s=first - began)
    peer.stop()


def latency(bench: Bench, rate: int, seconds: float) -> None:
    """Measure from a commit to its event's visibility, under a steady load."""
    for kind in ("pgherald", "debezium", "debezium-low-latency"):
        console.print(f"[bold]{rate:,} commits a second for {seconds:.0f} s[/bold]")
        with bench.database() as database:
            peer = bench.peer(kind, database)
            peers.prepare(peer)
            peer.start(snapshot=False)
            _meet(bench, peer, rate, seconds)
            peer.stop()


def _meet(bench: Bench, peer: Peer, rate: int, seconds: float) -> None:
    backlog.fill(peer.database, 100, 1)  # makes the topic, and warms what needs warming
    topics.Marks(peer.kafka.bootstrap, peers.topic(peer, "mark")).until("end", 120)
    topic = peers.topic(peer, "User")
    with closing(topics.reader(peer.kafka.bootstrap)) as client:
        client.assign(topics.at_end_of(client, topic))
        used_s = usage.cpu_s(peer.pid)
        load = backlog.Pace(peer.database, rate, seconds)
        found = topics.latencies_ms(client, time.monotonic() + seconds + 60, int(rate * seconds))
        load.join()
    if len(found) < int(rate * seconds):
        raise RuntimeError(f"{peer.kind} published {len(found)} of {int(rate * seconds)} rows")
    cuts = quantiles(found, n=100)
    cpu_percent = (usage.cpu_s(peer.pid) - used_s) / seconds * 100
    bench.figures.note(
        "latency", peer.kind, p50_ms=median(found), p99_ms=cuts[98], cpu_percent=cpu_percent, late_s=load.late_s
    )


def ratios(medians: report.Medians) -> dict[str, float]:
    """Hold pgherald against its peers: Debezium at its better setting."""
    ours = {workload: of_peer["pgherald"] for workload, of_peer in medians.items()}

    def against(workload: str, figure: str, best: Callable[..., float] = max) -> float:
        theirs = [figures[figure] for peer, figures in medians[workload].items() if peer.startswith("debezium")]
        return ours[workload][figure] / best(theirs)

    limit = medians["single_row"]["pg_recvlogical"]["rows_per_s"]
    return {
        "single_row_vs_pg_recvlogical": ours["single_row"]["rows_per_s"] / limit,
        "single_row_vs_debezium": against("single_row", "rows_per_s"),
        "hundred_row_vs_debezium": against("hundred_row", "rows_per_s"),
        "million_row_txn_vs_debezium": against("million_row_txn", "rows_per_s"),
        "cpu_vs_debezium": against("single_row", "cpu_s_per_million", min),
        "peak_memory_mib": ours["single_row"]["peak_mib"],
        "million_row_txn_memory_mib": ours["million_row_txn"]["peak_mib"],
        "commit_to_visible_p50_ms": ours["latency"]["p50_ms"],
        "commit_to_visible_p99_ms": ours["latency"]["p99_ms"],
        "start_to_first_event_s": ours["single_row"]["first_event_s"],
        "snapshot_vs_debezium": against("snapshot", "rows_per_s"),
    }


def main() -> None:
    """Run all workloads, then report."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.capture", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="a part of the rows, for a quick look")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    peers.fetch()
    with local.postgres() as postgres, local.kafka() as kafka:
        folder = FOLDER / "capture"
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(postgres, kafka, given.scale, given.runs, folder.resolve())
        size = int(500_000 * given.scale)
        stream(bench, "single_row", size, 1)
        stream(bench, "hundred_row", size, 100)
        stream(bench, "million_row_txn", 2 * size, 2 * size)
        snapshot(bench, 2 * size)
        latency(bench, 1000, 60 * given.scale)
    medians = bench.figures.medians()
    report.write(FOLDER / "capture.json", medians, ratios(medians), {"scale": given.scale, "runs": given.runs})
    report.show(console, medians, ratios(medians))
    report.chart(FOLDER / "capture.png", medians)


if __name__ == "__main__":
    main()
