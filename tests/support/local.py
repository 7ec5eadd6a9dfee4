"""The servers as local processes: those of `make up`, in a folder that goes away with the session."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from deploy.local.net import free_port
from deploy.local.process import Daemon
from deploy.local.servers import LocalKafka, LocalPostgres
from tests.support.pooler import PgBouncer
from tests.support.servers import Line, listeners
from tests.support.tls import Certificates

Local = TypeVar("Local", bound="Daemon | Cluster")


class LinedKafka(LocalKafka):
    """The broker, with a second listener for a line that can be cut."""

    def __init__(self, home: Path) -> None:
        port, controller, self.line = free_port(), free_port(), Line(free_port(), free_port())
        settings = listeners(port, controller, self.line, host=self.host)
        super().__init__(home, port, controller, settings=settings)
        self.brokers = [self]


class Cluster:
    """Several brokers, each with a copy of everything; what is acknowledged, two of them have at least."""

    host = "127.0.0.1"

    def __init__(self, home: Path, number: int) -> None:
        self.home = home
        self.brokers = [LinedKafka(home / str(id_)) for id_ in range(1, number + 1)]
        voters = ",".join(f"{id_}@{self.host}:{each.controller_port}" for id_, each in enumerate(self.brokers, 1))
        for id_, broker in enumerate(self.brokers, 1):
            broker.cluster_id = self.brokers[0].cluster_id
            broker.settings |= {"node.id": str(id_), "controller.quorum.voters": voters, **_copied(number)}
        self.port = self.brokers[0].port

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.bootstrap for broker in self.brokers)

    def start(self) -> None:
        self._each(LinedKafka.start)  # none answers before most of them are there

    def stop(self) -> None:
        self._each(LinedKafka.stop)

    def restart(self) -> None:
        """One after the other, as an upgrade does."""
        for broker in self.brokers:
            broker.restart()

    def kill(self) -> None:
        self._each(LinedKafka.kill)

    def pause(self) -> None:
        self._each(LinedKafka.pause)

    def unpause(self) -> None:
        self._each(LinedKafka.unpause)

    def _each(self, act: Callable[[LinedKafka], None]) -> None:
        with ThreadPoolExecutor() as threads:
            list(threads.map(act, self.brokers))


def _copied(brokers: int) -> dict[str, str]:
    topics = ("offsets.topic", "transaction.state.log")
    return {
        **{f"{topic}.replication.factor": str(brokers) for topic in topics},
        "min.insync.replicas": "2",
        "transaction.state.log.min.isr": "2",
        "replica.lag.time.max.ms": "5000",  # by default a copy that hangs is waited for half a minute
    }


@contextmanager
def postgres(settings: Mapping[str, str] | None = None) -> Iterator[LocalPostgres]:
    # no test cuts the power of the machine: nothing is lost without fsync, and CREATE DATABASE takes a third
    with _started(lambda home: LocalPostgres(home, free_port(), {"fsync": "off", **(settings or {})})) as server:
        yield server


@contextmanager
def standby(primary: LocalPostgres) -> Iterator[LocalPostgres]:
    """Run a streaming standby of a server that runs."""
    with _started(lambda home: _Standby(home, primary)) as server:
        yield server


@contextmanager
def pooler(dsn: str, settings: Mapping[str, str] | None = None) -> Iterator[PgBouncer]:
    """Run PgBouncer before a database; clients are who the DSN says."""
    with _started(lambda home: PgBouncer(home, dsn, settings)) as server:
        yield server


class _Standby(LocalPostgres):
    """A copy of a primary that follows it."""

    def __init__(self, home: Path, primary: LocalPostgres) -> None:
        super().__init__(home, free_port(), primary.settings)
        self._primary = primary

    def _create(self) -> None:
        password = shutil.copy(self._primary.home / "password", self.home)
        for path in (self.home, password):
            if self.user:
                shutil.chown(path, self.user, self.user)
        half_made = self.home / "copy"
        self._run("pg_basebackup", "-d", self._primary.dsn(), "-D", half_made, "-R", "-c", "fast", "--no-sync")
        with (half_made / "postgresql.conf").open("a") as file:
            file.write(f"port = {self.port}\n")
        half_made.rename(self.cluster)


@contextmanager
def postgres_with_tls(certificates: Certificates, name: str) -> Iterator[LocalPostgres]:
    """Start a server whose certificate is for this name, and which trusts the same authority about its clients."""

    def make(home: Path) -> LocalPostgres:
        certificate, key = certificates.issue(home, "server", name)
        if os.geteuid() == 0:
            shutil.chown(key, "postgres", "postgres")
        authority = home / "ca.pem"
        authority.write_bytes(certificates.ca_file.read_bytes())
        files = {"ssl_cert_file": certificate, "ssl_key_file": key, "ssl_ca_file": authority}
        tls = {"ssl": "on", **{setting: str(file) for setting, file in files.items()}}
        return LocalPostgres(home, free_port(), {"fsync": "off", **tls})

    with _started(make) as server:
        yield server


@contextmanager
def kafka() -> Iterator[LinedKafka]:
    with _started(LinedKafka) as server:
        yield server


@contextmanager
def cluster(brokers: int) -> Iterator[Cluster]:
    with _started(lambda home: Cluster(home, brokers)) as server:
        yield server


@contextmanager
def _started(make: Callable[[Path], Local]) -> Iterator[Local]:
    # everyone may enter /var/tmp, also PostgreSQL's user
    server = make(Path(tempfile.mkdtemp(prefix="pgherald-test-", dir="/var/tmp")))
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home)
