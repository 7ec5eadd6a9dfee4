"""A TCP proxy to put a bad network between a client and a server."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from deploy.local.net import free_port
from tests.support.misbehaving import Switched


class Proxy(Switched):
    """Forwards connections from a port of 127.0.0.1 to another.

    cut() is a broken line: connections are reset and new ones refused. blackhole() is a silent one: connections stay
    open, also new ones, and not a byte passes. abandon() is a silent one that the server has noticed: its side is
    reset. resume() ends them; what was held back then passes.
    """

    def __init__(self, target_port: int, *, target_host: str = "127.0.0.1", port: int = 0) -> None:
        self.target = (target_host, target_port)
        self.port = port or free_port()
        self._flowing = threading.Event()
        self._lock = threading.Lock()  # of the listener and the sockets
        self._sockets: set[socket.socket] = set()
        self._servers: set[socket.socket] = set()  # those of them that lead to the target
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._flowing.set()
        self._listener = socket.create_server((self.host, self.port), backlog=128)
        self._run(self._accept, self._listener)

    def stop(self) -> None:
        self.cut()
        for thread in self._threads:
            thread.join(10)
        self._threads.clear()

    def cut(self) -> None:
        with self._lock:
            for each in [*([self._listener] if self._listener else []), *self._sockets]:
                _reset(each)
            self._listener = None
            self._sockets.clear()
            self._servers.clear()
        self._flowing.set()  # so that threads which hold bytes back see that it is over

    def blackhole(self) -> None:
        self._flowing.clear()

    def abandon(self) -> None:
        self.blackhole()
        with self._lock:
            for each in self._servers:
                _reset(each)
            self._sockets -= self._servers
            self._servers.clear()

    def resume(self) -> None:
        if self._listener:
            self._flowing.set()
        else:
            self.start()

    def forward(self, chunk: bytes, sink: socket.socket) -> None:
        """Pass on what came in one piece. An OSError breaks its connection."""
        sink.sendall(chunk)

    def _run(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed: cut or stopped
            while True:
                client, _ = listener.accept()
                if self._remember(client, listener):
                    self._run(self._connect, client, listener)

    def _connect(self, client: socket.socket, listener: socket.socket) -> None:
        self._flowing.wait()
        try:
            server = socket.create_connection(self.target, timeout=5)
        except OSError:
            self._forget(client)
            return
        server.settimeout(None)
        if self._remember(server, listener):
            with self._lock:
                self._servers.add(server)
            self._run(self._pump, client, server)
            self._pump(server, client)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                self._flowing.wait()
                self.forward(chunk, sink)
        self._flowing.wait()  # nor does the news that a side is gone
        self._forget(source)
        self._forget(sink)

    def _remember(self, each: socket.socket, listener: socket.socket) -> bool:
        """Keep it for cut(), unless the line was cut since."""
        with self._lock:
            if self._listener is listener:
                self._sockets.add(each)
                return True
        _reset(each)
        return False

    def _forget(self, each: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(each)
            self._servers.discard(each)
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
        each.close()


def _reset(each: socket.socket) -> None:
    """Close it so that the other side gets an error, not an orderly end."""
    with contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
    each.close()
