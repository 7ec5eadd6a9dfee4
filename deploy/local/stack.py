"""The local stack: PostgreSQL, Kafka, a mail inbox and a webhook receiver, in one folder.

    python -m deploy.local.stack up | down [--purge] | status

The servers outlive the command. Their ports are chosen once and stay; a second `up` starts only what has died.
"""

import argparse
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.local import badgeyay, configure
from deploy.local.net import answers, free_port
from deploy.local.process import Daemon, ServerFailed
from deploy.local.servers import LocalKafka, LocalPostgres

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "build" / "local"


class Script(Daemon):
    """A server of ours: a module of this folder, started with its port and what it keeps."""

    folder = str(CHECKOUT)
    timeout_s = 20.0

    def __init__(self, name: str, home: Path, log: Path, port: int, *keeps: Path) -> None:
        super().__init__(home, log)
        self.name, self.port, self.keeps = name, port, keeps

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", f"deploy.local.{self.name}", str(self.port), *self.keeps]

    def ready(self) -> bool:
        return answers(self.port)


class Stack:
    """The servers of one folder, and what they leave there: `settings`, `mails` (*.eml), `calls` (JSON), `logs`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder.resolve()
        self.settings, self.calls = self.folder / "pgherald.toml", self.folder / "calls.jsonl"
        self.mails, self.logs = self.folder / "inbox", self.folder / "log"
        state = _state(self.folder)
        ports, run, secrets = state["ports"], self.folder / "run", self.folder / "secrets" / "services"
        self.postgres = LocalPostgres(Path(state["postgres"]), ports["postgres"], log=self.logs / "postgres.log")
        self.kafka = LocalKafka(self.folder / "kafka", ports["kafka"], ports["controller"], self.logs / "kafka.log")
        self.inbox = Script("inbox", run / "inbox", self.logs / "inbox.log", ports["inbox"], self.mails)
        self.receiver = Script(
            "receiver", run / "receiver", self.logs / "receiver.log", ports["receiver"], self.calls, secrets
        )

    @property
    def servers(self) -> "list[LocalPostgres | LocalKafka | Script]":
        return [self.postgres, self.kafka, self.inbox, self.receiver]

    def up(self) -> dict[str, float | None]:
        """Start what does not run. Returns the seconds that each server took, None for one that ran."""
        with _alone(self.folder), ThreadPoolExecutor() as pool:
            configure.write_secrets(self.folder)
            took = dict(zip((server.name for server in self.servers), pool.map(_start, self.servers), strict=True))
            badgeyay.create(self.postgres, configure.role_password(self.folder))
            configure.write_settings(
                self.folder,
                postgres_port=self.postgres.port,
                bootstrap=self.kafka.bootstrap,
                smtp_port=self.inbox.port,
                receiver_port=self.receiver.port,
            )
        return took

    def down(self) -> None:
        """Stop the servers; what they stored stays."""
        with _alone(self.folder):
            for server in reversed(self.servers):
                server.stop()

    def purge(self) -> None:
        """Stop the servers and remove everything."""
        self.down()
        shutil.rmtree(self.postgres.home, ignore_errors=True)
        shutil.rmtree(self.folder)


def _state(folder: Path) -> dict[str, Any]:
    """Return what was chosen for this folder, once."""
    path = folder / "state.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        names = ("postgres", "kafka", "controller", "inbox", "receiver")
        # a checkout under root's home is closed to PostgreSQL's user
        postgres = (
            tempfile.mkdtemp(prefix="pgherald-", dir="/var/tmp") if os.geteuid() == 0 else str(folder / "postgres")
        )
        half_written = folder / ".state.json"
        half_written.write_text(
            json.dumps({"ports": {name: free_port() for name in names}, "postgres": postgres}) + "\n"
        )
        half_written.rename(path)
    state: dict[str, Any] = json.loads(path.read_text())
    return state


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for another `up` or `down` of this folder."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(server: "LocalPostgres | LocalKafka | Script") -> float | None:
    ran, started = server.process is not None, time.monotonic()
    if not ran and answers(server.port):
        hint = "stop it, or `make down PURGE=1`"
        raise ServerFailed(f"port {server.port} of {server.name} is taken by another program: {hint}")
    server.start()
    return None if ran else time.monotonic() - started


def _up(stack: Stack, console: Console) -> int:
    took = stack.up()
    for server in stack.servers:
        seconds = took[server.name]
        said = "runs already" if seconds is None else f"started in {seconds:.1f} s"
        console.print(f"{server.name:<12}127.0.0.1:{server.port}   {said}")
    paths = {"settings": stack.settings, "mails": stack.mails / "*.eml", "calls": stack.calls, "logs": stack.logs}
    for name, path in paths.items():
        console.print(f"{name:<12}{_relative(path)}")
    console.print(
        "next        make run-cdc    then, beside it, build/venv/bin/pgherald consume mail --config "
        + str(_relative(stack.settings))
    )
    return 0


def _status(stack: Stack, console: Console) -> int:
    table = Table("server", "address", "state", "pid", "log", box=None)
    for server in stack.servers:
        process = server.process
        state = "down" if not process else "up" if server.ready() else "does not answer"
        table.add_row(
            server.name,
            f"127.0.0.1:{server.port}",
            state,
            str(process.pid) if process else "",
            str(_relative(server.log)),
        )
    console.print(table)
    return 0 if all(server.process for server in stack.servers) else 1


def _down(stack: Stack, console: Console, *, purge: bool) -> int:
    if purge:
        stack.purge()
        console.print("stopped, and everything it stored removed")
    else:
        stack.down()
        console.print(f"stopped; what it stored stays in {_relative(stack.folder)} (make down PURGE=1 removes it)")
    return 0


def _relative(path: Path) -> Path:
    return path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.stack", description="The local stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what does not run")
    commands.add_parser("down", help="stop all").add_argument(
        "--purge", action="store_true", help="and remove the data"
    )
    commands.add_parser("status", help="say what runs; exit 1 unless all does")
    given = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    if given.command != "up" and not (FOLDER / "state.json").exists():
        console.print("there is no local stack here: make up")
        return int(given.command == "status")
    try:
        if given.command == "up":
            return _up(Stack(), console)
        return _status(Stack(), console) if given.command == "status" else _down(Stack(), console, purge=given.purge)
    except ServerFailed as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
