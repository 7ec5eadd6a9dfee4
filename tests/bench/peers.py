"""Who captures: pgherald, Debezium in Kafka Connect, and pg_recvlogical as the limit of the server itself."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from psycopg2.extensions import parse_dsn

from deploy.local import programs
from deploy.local.net import free_port, until
from deploy.local.process import Daemon
from tests.bench import backlog, topics
from tests.support.database import Database
from tests.support.deployment import Deployment, Running
from tests.support.servers import KafkaServer

PARTITIONS = 3


class Peer(Protocol):
    """A capturing process and its topics. Each has a name of its own, and with it slot and topics."""

    kind: str
    name: str
    database: Database
    kafka: KafkaServer

    def start(self, *, snapshot: bool) -> None:
        """Start it; without a snapshot it begins at its slot, or makes one."""

    def stop(self) -> None: ...

    @property
    def pid(self) -> int: ...


def topic(peer: Peer, table: str) -> str:
    """Name the topic of a table: the same at both."""
    return f"{peer.name}.public.{table}"


def prepare(peer: Peer) -> None:
    """Let it make its slot and its topics, and end: what is written from now on is its backlog."""
    peer.start(snapshot=False)
    until(lambda: _streams(peer), 60, f"{peer.name} to stream")
    backlog.mark(peer.database, f"ready{peer.name}")
    topics.wait_for(peer.kafka.bootstrap, topic(peer, "mark"))
    topics.Marks(peer.kafka.bootstrap, topic(peer, "mark")).until(f"ready{peer.name}", 60)
    peer.stop()


def _streams(peer: Peer) -> bool:
    return peer.database.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", (peer.name,)) == [
        (True,)
    ]


class Pgherald:
    """`pgherald capture` with its default settings."""

    kind = "pgherald"

    def __init__(self, name: str, folder: Path, database: Database, kafka: KafkaServer) -> None:
        self.name, self.database, self.kafka = name, database, kafka
        self._deployment = Deployment(folder, database, kafka, name, tables=backlog.TABLES)
        self._deployment.__enter__()
        self._running: Running | None = None

    def start(self, *, snapshot: bool) -> None:
        how = "initial" if snapshot else "never"
        self._running = self._deployment.start("capture", PGHERALD_SOURCE__SNAPSHOT=how)

    def stop(self) -> None:
        if self._running:
            self._running.stop()

    @property
    def pid(self) -> int:
        return self._running.pid if self._running else 0


#: What Kafka's own scripts give Connect.
_HEAP = ("-Xms256m", "-Xmx2g")
#: The best that was found for throughput, and for latency, on two cores.
_THROUGHPUT = {
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "poll.interval.ms": "10",
    "producer.override.linger.ms": "20",
    "producer.override.batch.size": "262144",
}
_LATENCY = {"poll.interval.ms": "1", "producer.override.linger.ms": "0"}
TUNINGS: dict[str, tuple[Mapping[str, str], Sequence[str]]] = {
    "debezium": ({}, _HEAP),
    "debezium-tuned": (_THROUGHPUT, ("-Xmx512m",)),
    "debezium-low-latency": (_LATENCY, ("-Xmx512m",)),
}


class Debezium(Daemon):
    """Debezium's PostgreSQL connector in a standalone Kafka Connect, with the options that our envelope copies."""

    def __init__(self, kind: str, name: str, folder: Path, database: Database, kafka: KafkaServer) -> None:
        super().__init__(folder)
        self.kind, self.name, self.database, self.kafka = kind, name, database, kafka
        self._tuning, self._jvm = TUNINGS[kind]
        self._rest_port = free_port()
        self._snapshot = False

    def start(self, *, snapshot: bool = False) -> None:
        self._snapshot = snapshot
        super().start()

    def prepare(self) -> None:
        (self.home / "worker.properties").write_text(_properties(self._worker()))
        (self.home / "connector.properties").write_text(_properties(self._connector()))

    def command(self) -> Sequence[str | Path]:
        java = programs.java()
        if java is None:
            raise FileNotFoundError("no Java 17 here: `make setup` installs it")
        files = [self.home / "worker.properties", self.home / "connector.properties"]
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        return [java, *self._jvm, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{libs()}/*", main, *files]

    def ready(self) -> bool:
        return True  # what it does is seen in its topics

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def _worker(self) -> dict[str, str]:
        json = "org.apache.kafka.connect.json.JsonConverter"
        return {
            "bootstrap.servers": self.kafka.bootstrap,
            "key.converter": json,
            "key.converter.schemas.enable": "false",
            "value.converter": json,
            "value.converter.schemas.enable": "false",
            "offset.storage.file.filename": str(self.home / "offsets"),
            "listeners": f"http://127.0.0.1:{self._rest_port}",
            "plugin.discovery": "service_load",
        }

    def _connector(self) -> dict[str, str]:
        source = parse_dsn(self.database.dsn)
        return {
            "name": self.name,
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": source["host"],
            "database.port": source["port"],
            "database.user": source["user"],
            "database.password": source["password"],
            "database.dbname": source["dbname"],
            "topic.prefix": self.name,
            "plugin.name": "pgoutput",
            "slot.name": self.name,
            "publication.name": self.name,
            "publication.autocreate.mode": "filtered",
            "table.include.list": "public.User,public.mark",
            "column.exclude.list": "public.User.password",
            "snapshot.mode": "initial" if self._snapshot else "no_data",
            "decimal.handling.mode": "string",
            "time.precision.mode": "isostring",
            "interval.handling.mode": "string",
            "binary.handling.mode": "base64",
            "skipped.operations": "none",
            "topic.creation.default.partitions": str(PARTITIONS),
            "topic.creation.default.replication.factor": "1",
            **self._tuning,
        }


def _properties(options: Mapping[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in options.items())


def libs() -> Path:
    """Name the folder of Connect's and Debezium's jars; `fetch` fills it."""
    return Path("build/bench/debezium").resolve()


def fetch() -> None:
    """Fetch Debezium and Kafka Connect once."""
    if libs().exists():
        return
    half = libs().with_suffix(".half")
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={half}"]
    subprocess.run(["mvn", "-B", "-q", "-f", "tests/bench/debezium/pom.xml", goal, *options], check=True)
    half.rename(libs())


class PgRecvlogical:
    """PostgreSQL's own reader of wal2json's lines, which throws them away. It wakes for each one."""

    def __init__(self, name: str, database: Database) -> None:
        self.name, self._database = name, database

    def prepare(self) -> None:
        """Make the slot."""
        query = "SELECT pg_create_logical_replication_slot(%s, 'wal2json')"
        self._database.execute(query, (self.name,))

    def read_s(self, end_lsn: str) -> float:
        """Read from the slot to an LSN; give the seconds."""
        source = parse_dsn(self._database.dsn)
        options = ["format-version=2", "include-lsn=1", "include-xids=1", "include-timestamp=1", "include-pk=1"]
        began = time.monotonic()
        subprocess.run(
            [
                _pg_recvlogical(),
                *("-h", source["host"], "-p", source["port"], "-U", source["user"], "-d", source["dbname"]),
                *("--slot", self.name, "--start", "--no-loop", "--endpos", end_lsn, "--file", "/dev/null"),
                *(part for option in options for part in ("-o", option)),
                *("-o", "add-tables=public.User,public.mark"),
            ],
            env={"PGPASSWORD": source["password"]},
            check=True,
        )
        return time.monotonic() - began


def _pg_recvlogical() -> Path:
    folder = programs.postgres_bin()
    if folder is None:
        raise FileNotFoundError("no PostgreSQL here: `make setup` installs it")
    return folder / "pg_recvlogical"
