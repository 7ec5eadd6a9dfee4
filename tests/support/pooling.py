"""A pooler as PgBouncer is one in `pool_mode = transaction`: each transaction gets whichever session is free.

What a client leaves in a session, the next client finds there. Speaks the simple query protocol, which is what psycopg2
uses. Source: PostgreSQL's "Frontend/Backend Protocol".
"""

import os
import random
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2

_WELCOME = {"server_version": "15.0", "client_encoding": "UTF8", "DateStyle": "ISO, MDY", "TimeZone": "UTC"}
_SSL_REQUEST = 80877103


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _exactly(sock: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        if not (part := sock.recv(length - len(parts))):
            raise ConnectionError
        parts += part
    return parts


def _read(sock: socket.socket) -> tuple[bytes, bytes]:
    kind = _exactly(sock, 1)
    return kind, _exactly(sock, struct.unpack("!i", _exactly(sock, 4))[0] - 4)


class Session:
    """One session of the server, opened and logged in by libpq."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg2.connect(dsn)
        self.sock = socket.socket(fileno=os.dup(self._connection.fileno()))
        self.sock.setblocking(True)  # libpq made it otherwise

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """Ask the session itself, while no one else has it."""
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def close(self) -> None:
        self.sock.close()
        self._connection.close()

    def answer(self, query: bytes) -> tuple[bytes, bool]:
        """Pass a message on; give all that comes back, and whether the transaction is over."""
        self.sock.sendall(query)
        said = b""
        while True:
            kind, body = _read(self.sock)
            said += _message(kind, body)
            if kind == b"Z":
                return said, body == b"I"


class Pool:
    """The sessions that are free. A random one is taken, so that few transactions meet the session of the last."""

    def __init__(self, dsn: str, sessions: int) -> None:
        self.all = [Session(dsn) for _ in range(sessions)]
        self._free = list(self.all)
        self._changed = threading.Condition()
        self.transactions = 0

    def take(self) -> Session:
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            self.transactions += 1
            return self._free.pop(random.randrange(len(self._free)))

    def give_back(self, session: Session) -> None:
        with self._changed:
            self._free.append(session)
            self._changed.notify()


class _Client(socketserver.BaseRequestHandler):
    request: socket.socket
    server: "_Server"

    def handle(self) -> None:
        with suppress(ConnectionError):
            self._welcome()
            while self._transaction():
                pass

    def _welcome(self) -> None:
        length, code = struct.unpack("!ii", _exactly(self.request, 8))
        _exactly(self.request, length - 8)
        if code == _SSL_REQUEST:
            self.request.sendall(b"N")
            self._welcome()
            return
        said = _message(b"R", struct.pack("!i", 0)) + _message(b"K", struct.pack("!ii", 0, 0))
        for name, value in _WELCOME.items():
            said += _message(b"S", f"{name}\0{value}\0".encode())
        self.request.sendall(said + _message(b"Z", b"I"))

    def _transaction(self) -> bool:
        """Pass on what the client says to its transaction's end; false: the client went away between two."""
        kind, query = _read(self.request)
        if kind == b"X":
            return False
        session = self.server.pool.take()
        try:
            while True:
                said, over = session.answer(_message(kind, query))
                self.request.sendall(said)
                if over:
                    return True
                kind, query = _read(self.request)
        finally:
            self.server.pool.give_back(session)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    pool: Pool


@contextmanager
def pooled(dsn: str, sessions: int) -> Iterator[tuple[str, Pool]]:
    """Give the DSN of a pooler before a database, and its pool."""
    with _Server(("127.0.0.1", 0), _Client) as server:
        server.pool = Pool(dsn, sessions)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            host, port = server.server_address[:2]
            parameters = {**psycopg2.extensions.parse_dsn(dsn), "host": host, "port": port}
            yield psycopg2.extensions.make_dsn(**parameters), server.pool
        finally:
            server.shutdown()
            for session in server.pool.all:
                session.close()
