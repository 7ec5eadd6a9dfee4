"""Where a harness plays when no test calls it: servers, a database and a folder that go when it ends."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from tests.chaos.rounds import Report
from tests.support import database as databases
from tests.support import local
from tests.support.database import Database
from tests.support.fixtures import servers
from tests.support.servers import KafkaServer, PostgresServer


class Stage(NamedTuple):
    """The servers, and what a run has of its own."""

    postgres: PostgresServer
    kafka: KafkaServer
    database: Database
    folder: Path


@contextmanager
def _stage(folder: Path, brokers: int) -> Iterator[Stage]:
    shutil.rmtree(folder, ignore_errors=True)
    with (
        servers().postgres() as postgres,
        servers().kafka() if brokers == 1 else local.cluster(brokers) as kafka,
        databases.fresh(postgres, "chaos") as database,
    ):
        yield Stage(postgres, kafka, database, folder)


def main(name: str, run: Callable[[Stage, int, int, Console], Report]) -> None:
    """Run a harness as a command; end with 1 when something is violated. The logs stay in build/chaos."""
    arguments = argparse.ArgumentParser(prog=f"python -m tests.chaos.{name}")
    arguments.add_argument("--rounds", type=int, default=25)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--brokers", type=int, default=1)
    given = arguments.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    folder = Path("build/chaos") / name
    console.print(f"{given.rounds} rounds, seed {given.seed}, brokers: {given.brokers}, logs in {folder}")
    with _stage(folder.resolve(), given.brokers) as stage:
        report = run(stage, given.rounds, given.seed, console)
    report.end()
    sys.exit(1 if report.violations else 0)
