"""One deployment of pgherald for a test: its settings file, its processes, its topics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdc.runtime.kafka import end_offsets
from cdc.runtime.settings import Settings, load
from deploy.local.net import until
from deploy.local.process import stat_fields
from deploy.local.topics import Committed, committed
from tests.support import role
from tests.support.database import Database
from tests.support.servers import KafkaServer


@dataclass(frozen=True)
class Record:
    """A committed record of a topic, decoded."""

    topic: str
    partition: int
    offset: int
    key: str | None
    value: dict[str, Any] | None
    headers: dict[str, str]

    @property
    def event_id(self) -> str:
        return self.headers["pgherald-event-id"]

    @property
    def op(self) -> str:
        return self.value["op"] if self.value else "tombstone"


class Running:
    """A command of pgherald as a process, with its log."""

    def __init__(
        self, arguments: list[str], log: Path, environment: Mapping[str, str], module: str = "cdc.runtime.cli"
    ) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PGHERALD_LOG": "json", **environment},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def said(self, event: str) -> bool:
        """Whether the log holds an event; an end of the process is an error."""
        if f'"event":"{event}"' in self.log.read_text():
            return True
        self.must_run()
        return False

    def must_run(self) -> None:
        assert self.running, f"ended with {self._process.returncode}: {self.log.read_text()[-2000:]}"

    def count(self, event: str) -> int:
        """How often the log holds an event."""
        return self.log.read_text().count(f'"event":"{event}"')

    def last(self, *events: str) -> str | None:
        """Which of these events the log holds last."""
        text = self.log.read_text()
        places = {text.rfind(f'"event":"{event}"'): event for event in events}
        return places[max(places)] if max(places) >= 0 else None

    @property
    def peak_kb(self) -> int:
        """The most memory that it ever had resident; 0 when it is gone."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        return int(status.partition("VmHWM:")[2].split()[0]) if "VmHWM:" in status else 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stop it where it is. A signal alone takes its time, and some of its threads go on meanwhile."""
        self._process.send_signal(signal.SIGSTOP)
        until(self._is_stopped, 20, "every thread to stop", every_s=0.005)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self._process.terminate()

    def _is_stopped(self) -> bool:
        return all(stat_fields(path)[0] == "T" for path in Path(f"/proc/{self.pid}/task").glob("*/stat"))

    def stop(self, timeout_s: float = 20) -> int:
        """SIGTERM, and its exit code."""
        if self.running:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        return self._process.wait(timeout_s)

    def exit_code(self, timeout_s: float = 30) -> int:
        return self._process.wait(timeout_s)


@dataclass
class Deployment:
    """Settings in a folder, and what runs by them. Leaving the context kills what is left."""

    folder: Path
    database: Database
    kafka: KafkaServer
    name: str
    tables: list[str] = field(default_factory=lambda: ["users"])
    more: str = ""
    source_dsn: str = ""
    bootstrap: str = ""
    _processes: list[Running] = field(default_factory=list)

    def __enter__(self) -> Deployment:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.running:
                process.kill()

    @property
    def path(self) -> Path:
        return self.folder / "pgherald.toml"

    def write(self) -> None:
        """Write the settings file anew. What runs by it is the role of deploy/sql/role.sql, with nothing more."""
        role.grant(self.database, self.tables)
        tables = "".join(f"[[source.tables]]\nname = '{table}'\n" for table in self.tables)
        dsn = self.source_dsn or role.dsn(self.database)
        self.path.write_text(
            f'[source]\nname = "{self.name}"\ndsn = "{dsn}"\nslot = "{self.name}"\n'
            f'{tables}\n[kafka]\nbootstrap_servers = "{self.bootstrap or self.kafka.bootstrap}"\npartitions = 3\n'
            f"replication_factor = {len(self.kafka.brokers)}\n{self.more}"
        )

    @property
    def settings(self) -> Settings:
        return load(self.path, {})

    def start(self, *arguments: str, **environment: str) -> Running:
        """Start a command; it ends with the test."""
        log = self.folder / f"{arguments[0]}-{len(self._processes)}.log"
        process = Running([*arguments, "--config", str(self.path)], log, environment)
        self._processes.append(process)
        return process

    def dying(self, moment: str, armed: Path) -> Running:
        """Start a reader that kills itself at a moment (tests.support.dying), and wait until it streams."""
        log = self.folder / f"dying-{len(self._processes)}.log"
        arguments = [moment, str(armed), "capture", "--config", str(self.path)]
        process = Running(arguments, log, {}, "tests.support.dying")
        self._processes.append(process)
        until(lambda: process.said("streaming"), 30, "capture to stream")
        return process

    def capture(self, *arguments: str) -> Running:
        """Start the reader and wait until it streams."""
        role.grant(self.database, self.tables)  # tables that were made since, too
        process = self.start("capture", *arguments)
        until(lambda: process.said("streaming"), 30, "capture to stream")
        return process

    def stop(self) -> None:
        """Stop in order what runs, and wait until PostgreSQL knows."""
        for process in self._processes:
            if process.running:
                assert process.stop() == 0
        free = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE active AND slot_name = %s)"
        until(lambda: self.database.execute(free, (self.name,)) == [(True,)], 20, f"slot {self.name} to be free")

    def run(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "cdc.runtime.cli", *arguments, "--config", str(self.path)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def topic(self, table: str = "public.users") -> str:
        return f"{self.name}.{table}"

    def records(self, table: str = "public.users") -> list[Record]:
        """Read everything that is committed in a table's topic, by partition and offset."""
        return sorted(self.stream(table), key=lambda record: (record.partition, record.offset))

    def stream(self, table: str) -> Iterator[Record]:
        """Read a table's topic record by record; those of one partition come in order."""
        return self.stream_topic(self.topic(table))

    def stream_topic(self, topic: str) -> Iterator[Record]:
        return (_record(record) for record in committed(self.kafka.bootstrap, topic))

    def events(self, table: str = "public.users") -> list[Record]:
        """Read the table's records that are no tombstones."""
        return [record for record in self.records(table) if record.value is not None]

    def visible(self, table: str = "public.users") -> int:
        """Tell how far a table's topic reaches for a `read_committed` consumer, without reading it."""
        return sum(end_offsets(self.settings.kafka, [self.topic(table)]).values())

    def until_caught_up(self, timeout_s: float = 60) -> None:
        """Wait until the slot is confirmed past everything written so far, and past a last empty transaction."""
        self.database.execute("SELECT pg_logical_emit_message(true, 'pgherald', '{}')")
        (end,) = self.database.execute("SELECT pg_current_wal_lsn()::text")[0]
        query = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        until(
            lambda: self.database.execute(query, (end, self.name)) == [(True,)],
            timeout_s,
            f"slot {self.name} to be confirmed past {end}",
        )


def _record(record: Committed) -> Record:
    return Record(
        record.topic,
        record.partition,
        record.offset,
        record.key.decode() if record.key is not None else None,
        json.loads(record.value) if record.value is not None else None,
        {name: value.decode() for name, value in record.headers},
    )
