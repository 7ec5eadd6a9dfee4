"""A time limit for a whole call. HTTP clients limit each read: a service that drips a byte now and then hangs for ever.

It speaks to httpcore, the network side of httpx.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any

import httpcore


class Deadlines(httpcore.NetworkBackend):
    """Connections whose every operation ends by the deadline of the thread that makes it; `start` sets it."""

    def __init__(self) -> None:
        self._real = httpcore.SyncBackend()
        self._of_thread = threading.local()

    def start(self, limit_s: float) -> None:
        """Let this thread's operations end within so long, all together."""
        self._of_thread.until = time.monotonic() + limit_s

    def left_s(self, timeout_s: float | None, late: type[httpcore.TimeoutException] = httpcore.ReadTimeout) -> float:
        """Tell how long an operation may take: its own timeout, but not past the deadline. Raises `late` behind it.

        A last moment would not end what always has something more to say.
        """
        until: float = self._of_thread.until
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise late("the call took too long")
        return left_s if timeout_s is None else min(left_s, timeout_s)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect by the deadline."""
        stream = self._real.connect_tcp(
            host, port, self.left_s(timeout, httpcore.ConnectTimeout), local_address, socket_options
        )
        return _Stream(stream, self)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadlines: Deadlines) -> None:
        self._stream, self._deadlines = stream, deadlines

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadlines.left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadlines.left_s(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left_s = self._deadlines.left_s(timeout, httpcore.ConnectTimeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, left_s)
        return _Stream(stream, self._deadlines)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
