"""A pool of connections, and a rate: what threads share that send to one relay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from cdc.runtime.errors import DependencyDown
from consumers.lanes import Bucket


class Connection(Protocol):
    """What a pool needs of a connection."""

    #: Whether the last use left it so that it can be used again.
    in_order: bool

    def is_fit(self) -> bool:
        """Tell whether it can still be used after a rest; may ask the other side."""

    def is_old(self) -> bool:
        """Tell whether it rested for too long to be used again; asks nobody."""

    def drop(self) -> None:
        """Close it at once and say nothing, whatever state it is in."""

    def cut(self) -> None:
        """End it under the thread that uses it, which then gets an error."""

    def quit(self) -> None:
        """Take leave and close it."""


C = TypeVar("C", bound=Connection)


class Pool(Generic[C]):
    """At most `size` connections. Any thread may borrow; the last one returned is the next one lent.

    So the others grow old when there is little to do, and `drop_old` takes leave of them.
    """

    def __init__(self, size: int, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._slots = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()  # of all below
        self._idle: list[C] = []
        self._busy: set[C] = set()
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[C]:
        """Lend a connection, an open one if there is any. Raises DependencyDown when `close` came first."""
        with self._slots:
            connection = self._take_fit() or self._new()
            try:
                yield connection
            finally:
                self._give_back(connection)

    def close(self) -> None:
        """End all connections, also those in use."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in self._busy:
                connection.cut()
        for connection in idle:
            connection.quit()

    def drop_old(self) -> None:
        """Take leave of those that rested for too long."""
        with self._lock:
            old = [connection for connection in self._idle if connection.is_old()]
            self._idle = [connection for connection in self._idle if connection not in old]
        for connection in old:
            connection.quit()

    def _take_fit(self) -> C | None:
        while connection := self._take():
            if connection.is_fit():
                return connection
            with self._lock:
                self._busy.discard(connection)
            connection.drop()
        return None

    def _take(self) -> C | None:
        with self._lock:
            if not self._idle:
                return None
            connection = self._idle.pop()
            self._busy.add(connection)
            return connection

    def _new(self) -> C:
        if self._closed:
            raise DependencyDown("the process ends: nothing was sent")
        connection = self._connect()
        with self._lock:
            self._busy.add(connection)
        return connection

    def _give_back(self, connection: C) -> None:
        with self._lock:
            self._busy.discard(connection)
            if connection.in_order and not self._closed:
                self._idle.append(connection)
                return
        connection.drop()


class Rate:
    """At most so many a second, for all threads together."""

    def __init__(self, rate: float) -> None:
        self._bucket = Bucket(rate, time.monotonic())
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def wait(self) -> None:
        """Wait for one's turn. Raises DependencyDown when `close` came first."""
        while wait_s := self._take():
            if self._closed.wait(wait_s):
                raise DependencyDown("the process ends: nothing was sent")

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed.set()

    def _take(self) -> float:
        """Take a turn, or say how long until there may be one."""
        with self._lock:
            if self._bucket.tokens(time.monotonic()):
                self._bucket.take(1)
                return 0.0
            return max(self._bucket.next_s, 0.001)
