"""The fixtures of every test: real servers, a database and a name of one's own, servers that misbehave."""

import os
import secrets
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from xdist.workermanage import WorkerController

from cdc import capture
from deploy.local.net import until
from tests.support import database as databases
from tests.support import engine
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.http import Endpoint
from tests.support.servers import KafkaServer, PostgresServer, Server
from tests.support.smtp import Relay
from tests.support.tls import Certificates

BACKENDS = ("docker", "local")
started = pytest.StashKey[list[str]]()


def backend() -> str:
    """Name where the servers run: PGHERALD_TEST_BACKEND, else containers if an engine answers."""
    chosen = os.environ.get("PGHERALD_TEST_BACKEND") or ("docker" if engine.answers() else "local")
    if chosen not in BACKENDS:
        raise pytest.UsageError(f"PGHERALD_TEST_BACKEND is {chosen!r}: docker or local")
    if chosen == "docker" and not engine.answers():
        raise pytest.UsageError("PGHERALD_TEST_BACKEND is docker, and no Docker engine answers")
    return chosen


def servers() -> ModuleType:
    """Import what starts them, where something is to be started."""
    return import_module(f"tests.support.{backend()}")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[started] = []


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark what runs on PostgreSQL or Kafka: `-m servers` runs it on another backend."""
    for item in items:
        if {"postgres", "kafka"} & set(item.fixturenames):
            item.add_marker("servers")


def pytest_report_header() -> str:
    return f"servers: {backend()}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that prints what one of its workers started."""
    told: dict[str, list[str]] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["servers"] = session.config.stash[started]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """Hear it. A worker that died has told nothing."""
    told: list[str] = getattr(node, "workeroutput", {}).get("servers", [])
    node.config.stash[started].extend(told)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what really ran: .ci/run looks for these lines."""
    terminalreporter.write_line(f"reader: {'compiled' if capture.__file__.endswith('.so') else 'Python'}")
    every_worker_s = config.stash[started]
    for name in sorted(set(every_worker_s)):
        terminalreporter.write_line(f"servers: {name} ran as {backend()}")


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    with servers().postgres() as server:
        pytestconfig.stash[started].append("PostgreSQL")
        yield server


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[KafkaServer]:
    with servers().kafka() as server:
        pytestconfig.stash[started].append("Kafka")
        yield server


@pytest.fixture(autouse=True)
def _healed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the servers as the next test expects them: whatever one did to them, they run again."""
    yield
    for name in {"postgres", "kafka"} & set(request.fixturenames):
        server: Server = request.getfixturevalue(name)
        server.unpause()
        server.start()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name a source: no other test has its topics, groups and slots. Its topics go with the test."""
    unique = "t" + secrets.token_hex(3)
    yield unique
    if "kafka" in request.fixturenames:
        kafka: KafkaServer = request.getfixturevalue("kafka")
        kafka.unpause()
        kafka.start()
        _delete_topics(kafka, unique + ".")


@pytest.fixture
def database(postgres: PostgresServer, name: str) -> Iterator[Database]:
    with databases.fresh(postgres, name) as made:
        yield made


@pytest.fixture
def deployment(
    request: pytest.FixtureRequest, tmp_path: Path, database: Database, kafka: KafkaServer, name: str
) -> Iterator[Deployment]:
    """Deploy for the table that the test's module says; a module that needs more than that has one of its own."""
    database.execute(request.module.TABLE)
    with Deployment(tmp_path / "d", database, kafka, name) as made:
        yield made


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as started_relay:
        yield started_relay


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as started_endpoint:
        yield started_endpoint


def _delete_topics(kafka: KafkaServer, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})

    def deleted() -> bool:
        if topics := [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(prefix)]:
            for done in admin.delete_topics(topics, request_timeout=5).values():
                done.result()
        return True

    until(deleted, 60, f"the topics of {prefix} to be deleted", ignore=(KafkaException,))
