"""The real servers as local processes: own folder, own ports on 127.0.0.1, nobody else's server touched."""

import base64
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg2
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.local import programs
from deploy.local.net import answers, until
from deploy.local.process import Daemon, working_in

#: what logical decoding, several tests' slots, applications with two-phase commit and a quick machine need
POSTGRES_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_prepared_transactions": "10",
    "jit": "off",
}

#: a broker alone: one copy of everything, no waiting for others; its registration expires soon, or a killed broker
#: would be let in again only after 9 s; no topic comes from a mistyped name; the cleaner's buffer fits the heap
BROKER_SETTINGS = {
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "300",
    "auto.create.topics.enable": "false",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}

JVM_OPTIONS = (
    "-Xms256m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def postgres_answers(dsn: str) -> bool:
    try:
        psycopg2.connect(dsn, connect_timeout=3).close()
    except psycopg2.OperationalError:
        return False
    return True


def kafka_answers(port: int) -> bool:
    if not answers(port):
        return False
    # librdkafka, as kafka-python's client leaves sockets open when a broker is half up
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
    try:
        return bool(client.list_topics(timeout=3).brokers)
    except KafkaException:
        return False


class LocalPostgres(Daemon):
    """PostgreSQL with wal2json allowed; role and superuser `postgres`. `settings` go into a new postgresql.conf.

    As root it runs as user `postgres` (it refuses root), who must be able to enter `home`.
    """

    name = "PostgreSQL"
    quit_signal = signal.SIGINT  # "fast": does not wait for clients to leave
    host = "127.0.0.1"

    def __init__(
        self, home: Path, port: int, settings: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        super().__init__(home, log)
        self.port = port
        self.settings = {**POSTGRES_SETTINGS, **(settings or {})}
        self.user = "postgres" if os.geteuid() == 0 else None
        self.cluster = home / "cluster"

    def dsn(self, dbname: str = "postgres") -> str:
        password = (self.home / "password").read_text().strip()
        return f"host={self.host} port={self.port} user=postgres password={password} dbname={dbname}"

    def prepare(self) -> None:
        if self.cluster.exists():
            self._forget_the_dead()
        else:
            self._create()

    def _forget_the_dead(self) -> None:
        """Let a killed server start again while its process is a zombie, as where nobody reaps: a zombie holds its pid.

        PostgreSQL would take that for a live postmaster. What its pid file guards is checked here: nobody is at work in
        the cluster.
        """
        until(lambda: not working_in(self.cluster), 20, f"the killed server's processes in {self.cluster} to end")
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _create(self) -> None:
        if self.user:
            shutil.chown(self.home, self.user, self.user)
        self._write_password()
        half_made = self.home / "initdb"
        shutil.rmtree(half_made, ignore_errors=True)
        roles = ("-U", "postgres", "-A", "scram-sha-256", "--pwfile", self.home / "password")
        self._run("initdb", "-D", half_made, *roles, "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync")
        with (half_made / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in self._all_settings().items())
        half_made.rename(self.cluster)

    def command(self) -> Sequence[str | Path]:
        return [self._bin("postgres"), "-D", self.cluster]

    def ready(self) -> bool:
        return postgres_answers(self.dsn())

    def _all_settings(self) -> dict[str, str]:
        # no unix socket: its path may not be longer than 107 bytes, and nobody needs it
        own = {"port": str(self.port), "listen_addresses": self.host, "unix_socket_directories": "", **self.settings}
        if "\noutput_plugin_libraries\t" in self._run("postgres", "--describe-config"):
            # the minor releases of 2026 refuse plugins that are not named; older ones refuse the setting
            own.setdefault("output_plugin_libraries", "pgoutput,test_decoding,wal2json")
        return own

    def _write_password(self) -> None:
        path = self.home / "password"
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16) + "\n")
        if self.user:
            shutil.chown(path, self.user, self.user)

    def _bin(self, program: str) -> Path:
        folder = programs.postgres_bin()
        if not folder:
            raise FileNotFoundError("no PostgreSQL with wal2json here: `make setup` installs it")
        return folder / program

    def _run(self, program: str, *arguments: str | Path) -> str:
        ran = subprocess.run(
            [self._bin(program), *arguments],
            check=True,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
        )
        return ran.stdout


class LocalKafka(Daemon):
    """One Kafka broker that is its own KRaft controller. `settings` win over ours at every start."""

    name = "Kafka"
    host = "127.0.0.1"

    def __init__(
        self,
        home: Path,
        port: int,
        controller_port: int,
        log: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(home, log)
        self.port = port
        self.controller_port = controller_port
        self.settings = {**BROKER_SETTINGS, **(settings or {})}
        #: Of the cluster that the first start makes.
        self.cluster_id = base64.urlsafe_b64encode(secrets.token_hex(8).encode()).decode().rstrip("=")
        self.jvm_options: Sequence[str] = (f"-XX:SharedArchiveFile={programs.class_archive()}", "-Xshare:auto")

    @property
    def bootstrap(self) -> str:
        return f"{self.host}:{self.port}"

    def prepare(self) -> None:
        properties = "".join(f"{key}={value}\n" for key, value in self._all_settings().items())
        (self.home / "server.properties").write_text(properties)
        if not (self.home / "records" / "meta.properties").exists():
            self._format()

    def command(self) -> Sequence[str | Path]:
        return self._java("kafka.Kafka", self.home / "server.properties")

    def ready(self) -> bool:
        return kafka_answers(self.port)

    def _all_settings(self) -> dict[str, str]:
        client, controller = f"{self.host}:{self.port}", f"{self.host}:{self.controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{client}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.home / "records"),
            **self.settings,
        }

    def _format(self) -> None:
        """Make the cluster. Without what this writes, it has the features of no real one: transactions of version 0."""
        settings = self.home / "server.properties"
        command = self._java("kafka.tools.StorageTool", "format", "-t", self.cluster_id, "-c", settings)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def _java(self, main: str, *arguments: str | Path) -> list[str | Path]:
        runtime, libs = programs.java(), programs.kafka_folder() / "libs"
        if not runtime or not libs.exists():
            raise FileNotFoundError("no Java 17 or no Kafka jars here: `make setup` installs them")
        jars = ":".join(map(str, sorted(libs.glob("*.jar"))))  # in one order: a class archive fits one class path only
        unpacked = f"-Djava.io.tmpdir={self.home}"  # what a killed broker leaves there goes with it
        return [runtime, *JVM_OPTIONS, *self.jvm_options, unpacked, "-cp", jars, main, *arguments]
