"""A pool of connections, and a rate: what threads share that send to one relay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from cdc.runtime.errors import DependencyDown
from cdc.runtime.log import get_logger
from consumers.lanes import Bucket
from consumers.outcome import Busy

#: A relay that refused one more connection is asked for one again after this.
FEWER_FOR_S = 60.0
_log = get_logger("mail")


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
    """At most `size` connections, and no more than the other side takes. Any thread may borrow.

    The last one returned is the next one lent: the others grow old when there is little to do, and `drop_old` takes
    leave of them.
    """

    def __init__(self, size: int, connect: Callable[[], C], turn_s: float) -> None:
        self._size, self._connect, self._turn_s = size, connect, turn_s
        self._changed = threading.Condition()  # of all below
        self._idle: list[C] = []
        self._busy: set[C] = set()
        self._opening = 0
        self._fewer, self._fewer_until_s = size, 0.0
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[C]:
        """Lend a connection, an open one if there is any. Raises DependencyDown when `close` came first, and Busy."""
        connection = self._lend()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """End all connections, also those in use."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in self._busy:
                connection.cut()
            self._changed.notify_all()
        for connection in idle:
            connection.quit()

    def drop_old(self) -> None:
        """Take leave of those that rested for too long."""
        with self._changed:
            old = [connection for connection in self._idle if connection.is_old()]
            self._idle = [connection for connection in self._idle if connection not in old]
            self._changed.notify(len(old))
        for connection in old:
            connection.quit()

    def _lend(self) -> C:
        while True:
            connection = self._take()
            if connection is None:
                connection = self._new()
            elif not connection.is_fit():
                self._forget(connection)
                connection.drop()
                continue
            if connection is not None:
                return connection

    def _take(self) -> C | None:
        """Wait for one that rests, or for a place to open one in: None."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._idle or self._has_place() or self._closed, self._turn_s):
                raise Busy("all connections to the relay wait for it", retry_after_s=1.0)
            if self._idle:
                connection = self._idle.pop()
                self._busy.add(connection)
                return connection
            self._opening += 1
            return None

    def _new(self) -> C | None:
        """Open one; None: the other side takes no more than there are. Raises DependencyDown."""
        connection: C | None = None
        try:
            connection = self._opened()
        except DependencyDown as exc:
            if not self._makes_do(exc):
                raise
        finally:
            with self._changed:
                self._opening -= 1
                if connection is not None:
                    self._busy.add(connection)
                self._changed.notify()
        return connection

    def _opened(self) -> C:
        if self._closed:
            raise DependencyDown("the process ends: nothing was sent")
        return self._connect()

    def _makes_do(self, refused: DependencyDown) -> bool:
        """Tell whether those that are open will do: the other side answers, and takes no further one."""
        with self._changed:
            opened = len(self._idle) + len(self._busy)
            if not opened or "code" not in refused.fields:
                return False
            self._fewer, self._fewer_until_s = opened, time.monotonic() + FEWER_FOR_S
        _log.warning("fewer_connections", connections=opened, why=refused.message)
        return True

    def _has_place(self) -> bool:
        most = self._fewer if time.monotonic() < self._fewer_until_s else self._size
        return len(self._idle) + len(self._busy) + self._opening < most

    def _forget(self, connection: C) -> None:
        with self._changed:
            self._busy.discard(connection)
            self._changed.notify()

    def _give_back(self, connection: C) -> None:
        with self._changed:
            self._busy.discard(connection)
            self._changed.notify()
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
