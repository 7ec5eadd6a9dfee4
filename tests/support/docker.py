"""The servers as containers of deploy/images, started by testcontainers."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from docker.errors import APIError

# before testcontainers reads it: its reaper is an image of its own; we remove what we start
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
from testcontainers.core.container import DockerContainer

from deploy.local.net import free_port, until
from deploy.local.servers import BROKER_SETTINGS, POSTGRES_SETTINGS, kafka_answers, postgres_answers
from tests.support.servers import Line, listeners

Box = TypeVar("Box", bound="Container")
IMAGES = Path(__file__).parents[2] / "deploy" / "images"
#: every container of this run carries it, so that a killed run's can be found
RUN = os.environ.get("PGHERALD_TEST_RUN") or secrets.token_hex(4)


@cache
def build_images() -> None:
    """Build what has changed; the engine's cache has the rest."""
    subprocess.run([IMAGES / "build.sh"], check=True)


class Container:
    """Faults by the engine's API. We choose the host's port: the engine would give another one at each start."""

    host = "127.0.0.1"

    def __init__(self, image: str, port: int, inner_port: int, environment: dict[str, str], *more: int) -> None:
        self.port = port
        self.container = DockerContainer(image, env=environment).with_kwargs(labels={"pgherald.run": RUN})
        # the engine's own form: with_bind_ports() would open the port to other machines
        self.container.ports[f"{inner_port}/tcp"] = (self.host, port)  # type: ignore[assignment]
        for same in more:
            self.container.ports[f"{same}/tcp"] = (self.host, same)  # type: ignore[assignment]

    def answers(self) -> bool:
        raise NotImplementedError

    def create(self) -> None:
        self.container.start()
        self._wait()

    def start(self) -> None:
        if self._engine.status != "running":
            self._engine.start()
        self._wait()

    def stop(self) -> None:
        self.unpause()
        self._engine.stop(timeout=20)

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        if self._engine.status in ("running", "paused"):
            self._engine.kill("SIGKILL")
            self._engine.wait()

    def pause(self) -> None:
        # On a busy machine the kernel may not freeze a process at once, and the engine gives up: "unable to freeze".
        until(self._frozen, 30, f"the container of {self.container.image} to freeze", ignore=(APIError,))

    def _frozen(self) -> bool:
        if self._engine.status != "paused":
            self._engine.pause()
        return True

    def unpause(self) -> None:
        if self._engine.status == "paused":
            self._engine.unpause()

    def remove(self) -> None:
        self.container.stop()

    def _wait(self) -> None:
        until(self.answers, 60, f"the container of {self.container.image} to answer")

    @property
    def _engine(self) -> Any:
        """Return the engine's own object, with the state it is in now."""
        wrapped = self.container.get_wrapped_container()
        wrapped.reload()
        return wrapped


class DockerPostgres(Container):
    """PostgreSQL of deploy/images/postgres."""

    def __init__(self) -> None:
        self.password = secrets.token_hex(16)
        settings = [f"{key} = '{value}'" for key, value in {**POSTGRES_SETTINGS, "fsync": "off"}.items()]
        environment = {"POSTGRES_PASSWORD": self.password, "POSTGRES_SETTINGS": "\n".join(settings)}
        super().__init__("pgherald-postgres", free_port(), 5432, environment)

    def dsn(self, dbname: str = "postgres") -> str:
        return f"host={self.host} port={self.port} user=postgres password={self.password} dbname={dbname}"

    def answers(self) -> bool:
        return postgres_answers(self.dsn())


class DockerKafka(Container):
    """Kafka of deploy/images/kafka. Its ports are the same inside and outside: the broker calls itself there, too."""

    def __init__(self) -> None:
        port, self.line = free_port(), Line(free_port(), free_port())
        self.bootstrap = f"{self.host}:{port}"
        settings = {**BROKER_SETTINGS, **listeners(port, 9093, self.line, host="")}
        environment = {"KAFKA_" + key.upper().replace(".", "_"): value for key, value in settings.items()}
        super().__init__("pgherald-kafka", port, port, environment, self.line.far)
        self.brokers = [self]

    def answers(self) -> bool:
        return kafka_answers(self.port)


@contextmanager
def postgres() -> Iterator[DockerPostgres]:
    with _started(DockerPostgres()) as server:
        yield server


@contextmanager
def kafka() -> Iterator[DockerKafka]:
    with _started(DockerKafka()) as server:
        yield server


@contextmanager
def _started(server: Box) -> Iterator[Box]:
    build_images()
    try:
        server.create()
        yield server
    finally:
        server.remove()
