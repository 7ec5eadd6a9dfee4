"""Connections to one service, used again only when nothing is left in them.

What stands behind an answer (a 204 with a body, a body longer than it says) would be taken for the next call's answer:
that call would count as refused or as made, and was not. It speaks to httpcore, the network side of httpx.
"""

from __future__ import annotations

import ssl
from functools import partial

import httpcore


class Connections(httpcore.ConnectionPool):
    """At most so many connections, for all threads together."""

    def __init__(self, tls: ssl.SSLContext, most: int, network: httpcore.NetworkBackend) -> None:
        super().__init__(ssl_context=tls, max_connections=most, network_backend=network)
        self._open = partial(_Connection, ssl_context=tls, network_backend=network)

    def create_connection(self, origin: httpcore.Origin) -> httpcore.ConnectionInterface:
        """Open a connection; the pool asks it before each use."""
        return self._open(origin)


class _Connection(httpcore.HTTPConnection):
    def has_expired(self) -> bool:
        return super().has_expired() or (self.is_idle() and self._has_rest())

    def _has_rest(self) -> bool:
        """Tell whether more was read than the answer; what was not read yet, httpcore sees at the socket."""
        opened = self._connection
        # Neither httpx nor httpcore has a way to h11, which keeps what it read.
        return isinstance(opened, httpcore.HTTP11Connection) and bool(opened._h11_state.trailing_data[0])
