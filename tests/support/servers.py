"""What a test may do with PostgreSQL and Kafka, the same on containers and on local processes."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Server(Protocol):
    """A real server on a port of 127.0.0.1; port and what was stored survive every fault."""

    host: str
    port: int

    def start(self) -> None:
        """Start what was killed or stopped, and return when it answers. Nothing happens to a server that runs."""

    def stop(self) -> None: ...

    def restart(self) -> None:
        """Stop in order, then start."""

    def kill(self) -> None:
        """SIGKILL to all of its processes."""

    def pause(self) -> None:
        """Leave connections open and answer nothing."""

    def unpause(self) -> None: ...


class PostgresServer(Server, Protocol):
    def dsn(self, dbname: str = "postgres") -> str:
        """Return the superuser's libpq keywords for this database."""


class Line(NamedTuple):
    """The broker's second listener. It tells clients to come to `near`, where a Proxy to `far` may stand."""

    near: int
    far: int


class Broker(Server, Protocol):
    line: Line


class KafkaServer(Server, Protocol):
    """A cluster; where it has one broker, it is that broker."""

    @property
    def bootstrap(self) -> str: ...

    @property
    def brokers(self) -> Sequence[Broker]: ...


def listeners(client: int, controller: int, line: Line, *, host: str) -> dict[str, str]:
    """Say where a broker listens, on its own `host`; clients come to 127.0.0.1."""
    return {
        "listeners": f"PLAINTEXT://{host}:{client},LINE://{host}:{line.far},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{client},LINE://127.0.0.1:{line.near}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,LINE:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
