"""Ports and waiting, for the servers and the tests."""

import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: below Linux's range for outgoing connections: while a server is down, nobody's connection can take its port
PORTS = range(20000, 32000)
_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now; this process is given each one once."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 not a secret
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are closing don't count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether something accepts connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def until(
    predicate: Callable[[], T],
    timeout_s: float,
    what: str,
    *,
    ignore: tuple[type[Exception], ...] = (),
    every_s: float = 0.05,
) -> T:
    """Poll until the predicate is truthy and return its value; an exception named in `ignore` counts as not yet.

    Raises TimeoutError, from the last ignored exception if there was one.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        last: Exception | None = None
        try:
            if found := predicate():
                return found
        except ignore as error:
            last = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}") from last
        time.sleep(every_s)
