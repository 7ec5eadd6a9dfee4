"""What servers that do as they are told have in common: a port that survives a stop, and letting go of who hangs."""

import socketserver
import threading
from abc import ABC, abstractmethod
from typing import Self

from deploy.local.net import free_port


class Switched(ABC):
    """What a `with` starts and stops."""

    host = "127.0.0.1"

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Misbehaving(Switched):
    """A server on a port of 127.0.0.1. Its exchanges wait for `released` where a script says to hang."""

    def __init__(self, port: int) -> None:
        self.port = port or free_port()
        self.released = threading.Event()
        self._server: socketserver.BaseServer | None = None

    @abstractmethod
    def listen(self) -> socketserver.BaseServer:
        """Open the port."""

    def hang_up(self) -> None:
        """Close the connections that would outlive the port."""

    def start(self) -> None:
        """Listen, on the same port as before a stop."""
        self.released.clear()
        self._server = self.listen()
        name = type(self).__name__
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Close the port and every connection, as a server that dies."""
        if self._server:
            self._server.shutdown()
            self.hang_up()
            self.released.set()
            self._server.server_close()  # waits for the exchanges' threads
            self._server = None

    def release(self) -> None:
        """Let those that hang go on as if nothing had been said."""
        self.released.set()
