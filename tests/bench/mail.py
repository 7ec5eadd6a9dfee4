"""Mails side by side: pgherald's mailer with its ledger, Flask-Mail in a loop, smtplib over one connection.

    python -m tests.bench.mail [--mails 5000] [--runs 3]      (make bench-mail)

Prints a table of medians and ratios, writes build/bench/mail.json and build/bench/mail.png. The relay is local, and
answers the final dot at once or after 100 ms; the ledger has a PostgreSQL of its own, so that its CPU can be told.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cdc.contract.envelope import Envelope, Source
from cdc.runtime.sections import User
from consumers.mail.render import Renderer
from consumers.rules import names
from deploy.local.net import until
from deploy.local.servers import LocalPostgres
from tests.bench import backlog, relays, report, usage
from tests.support import database as databases
from tests.support import local
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer

FOLDER = Path("build/bench")
#: Connections that many mails at a slow relay want.
_CONNECTIONS = {0: 8, 100: 64}
_SENT = """
    SELECT percentile_cont(%s) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM sent_at - committed_at))
    FROM pgherald.delivery JOIN pgherald.event USING (event_id) WHERE state = 'sent'
"""
console = Console(highlight=False, soft_wrap=True)


@dataclass
class Bench:
    """The servers, and every figure that was taken."""

    source: LocalPostgres
    ledger: LocalPostgres
    kafka: KafkaServer
    folder: Path
    figures: report.Figures = field(default_factory=lambda: report.Figures(console))

    @contextmanager
    def deployment(self, relay_port: int, connections: int) -> Iterator[tuple[Deployment, Database]]:
        """Make a deployment with one rule; give it with its ledger."""
        name = "m" + secrets.token_hex(3)
        with databases.fresh(self.source, name) as source, databases.fresh(self.ledger, name) as ledger:
            backlog.create(source)
            more = _SETTINGS.format(
                ledger=ledger.dsn, port=relay_port, connections=connections, templates=Path("templates").resolve()
            )
            folder = self.folder / name
            with Deployment(folder, source, self.kafka, name, tables=['public."User"'], more=more) as made:
                yield made, ledger


_SETTINGS = """
[ledger]
dsn = "{ledger}"
[templates]
path = "{templates}"
[user]
name = "username"
[smtp]
host = "127.0.0.1"
port = {port}
security = "none"
connections = {connections}
sender = "Badgeyay <no-reply@example.org>"
[[rules]]
name = "welcome"
on = "created"
mail = "welcome"
"""


def throughput(bench: Bench, delay_ms: int, mails: int, runs: int) -> None:
    """Send a backlog of mails with each peer in turn."""
    workload = f"delay_{delay_ms}_ms"
    for run in range(runs):
        console.print(f"[bold]{mails:,} mails, the relay answers after {delay_ms} ms[/bold] (run {run + 1})")
        with relays.slow(delay_ms) if delay_ms else relays.quick() as port:
            _ours(bench, workload, port, mails, _CONNECTIONS[delay_ms])
            serial = 100 if delay_ms else mails  # one by one, a slow relay takes its time
            for kind in ("flask", "smtplib"):
                took = _by_hand(bench, kind, port, serial)
                per_mail_ms = took["cpu_s"] / serial * 1000
                bench.figures.note(workload, kind, mails_per_s=serial / took["s"], cpu_ms_per_mail=per_mail_ms)


def _ours(bench: Bench, workload: str, port: int, mails: int, connections: int) -> None:
    """From the first mail to the last, of events that wait in Kafka when the mailer starts."""
    with bench.deployment(port, connections) as (deployment, ledger):
        capture = deployment.capture()
        deployment.database.execute("CALL register('u', 1, %s)", (mails,))
        deployment.until_caught_up()
        capture.stop()
        server = bench.ledger.process
        assert server is not None
        ledger_s = usage.cpu_s(server.pid)
        mailer = deployment.start("consume", "mail")
        until(lambda: _sent(ledger) > 0, 60, "the first mail", every_s=0.02)
        first, count, used_s = time.monotonic(), _sent(ledger), usage.cpu_s(mailer.pid)
        until(lambda: _sent(ledger) >= mails, 300, "the last mail", every_s=0.05)
        seconds, cpu_s = time.monotonic() - first, usage.cpu_s(mailer.pid) - used_s
        bench.figures.note(
            workload,
            "pgherald",
            mails_per_s=(mails - count) / seconds,
            cpu_ms_per_mail=cpu_s / (mails - count) * 1000,
            peak_mib=usage.peak_mib(mailer.pid),
            ledger_ms_per_delivery=(usage.cpu_s(server.pid) - ledger_s) / mails * 1000,
        )
        mailer.stop()


def _sent(ledger: Database) -> int:
    if ledger.execute("SELECT to_regclass('pgherald.delivery')") == [(None,)]:
        return 0
    return int(ledger.execute("SELECT count(*) FROM pgherald.delivery WHERE state = 'sent'")[0][0])


def _by_hand(bench: Bench, kind: str, port: int, mails: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.senders", kind, str(port), str(mails), str(bench.folder / "rendered")]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    took: dict[str, float] = json.loads(ran.stdout)
    return took


def latency(bench: Bench, rate: int, seconds: float) -> None:
    """Measure from a registration's commit to the relay's yes, as the ledger has recorded it."""
    console.print(f"[bold]{rate} registrations a second for {seconds:.0f} s[/bold]")
    with relays.quick() as port, bench.deployment(port, 8) as (deployment, ledger):
        deployment.capture()
        mailer = deployment.start("consume", "mail")
        deployment.database.execute("CALL register('w', 1, 1)")
        until(lambda: _sent(ledger) == 1, 60, "the first mail")
        load = backlog.Pace(deployment.database, rate, seconds)
        load.join()
        wanted = int(rate * seconds) + 1
        until(lambda: _sent(ledger) == wanted, 60, "the last mail")
        ((p50,),), ((p99,),) = (ledger.execute(_SENT, (part,)) for part in (0.5, 0.99))
        bench.figures.note("latency", "pgherald", p50_ms=p50, p99_ms=p99, peak_mib=usage.peak_mib(mailer.pid))


def ratios(found: report.Medians) -> dict[str, float]:
    """Hold pgherald against what is written by hand."""
    at_once, slow = found["delay_0_ms"], found["delay_100_ms"]
    return {
        "mails_vs_flask_mail": at_once["pgherald"]["mails_per_s"] / at_once["flask"]["mails_per_s"],
        "cpu_vs_flask_mail": at_once["pgherald"]["cpu_ms_per_mail"] / at_once["flask"]["cpu_ms_per_mail"],
        "mails_vs_serial_at_100ms": slow["pgherald"]["mails_per_s"] / slow["smtplib"]["mails_per_s"],
        "commit_to_accepted_p50_ms": found["latency"]["pgherald"]["p50_ms"],
        "commit_to_accepted_p99_ms": found["latency"]["pgherald"]["p99_ms"],
        "ledger_ms_per_delivery": at_once["pgherald"]["ledger_ms_per_delivery"],
        "peak_memory_mib": at_once["pgherald"]["peak_mib"],
    }


def _render(folder: Path) -> None:
    """Render the mail that the senders by hand send."""
    row = {"id": "1", "username": "Ada", "email": "ada@example.org"}
    envelope = Envelope("c", Source("bench", 1_700_000_000_000, "public", "User"), after=row)
    rendered = Renderer(Path("templates").resolve()).render("welcome", None, names(envelope, User(name="username")))
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("subject", "text", "html"):
        (folder / part).write_text(getattr(rendered, part))


def main() -> None:
    """Run all workloads, then report."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mail", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mails", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    relays.fetch()
    folder = (FOLDER / "mail").resolve()
    _render(folder / "rendered")
    with local.postgres() as source, local.postgres() as ledger, local.kafka() as kafka:
        bench = Bench(source, ledger, kafka, folder)
        throughput(bench, 0, given.mails, given.runs)
        throughput(bench, 100, given.mails, given.runs)
        latency(bench, 100, 30)
    medians = bench.figures.medians()
    report.write(FOLDER / "mail.json", medians, ratios(medians), {"mails": given.mails, "runs": given.runs})
    report.show(console, medians, ratios(medians))
    report.chart(FOLDER / "mail.png", medians, "mails_per_s", "mails a second")


if __name__ == "__main__":
    main()
