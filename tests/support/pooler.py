"""A connection pooler as a client of PostgreSQL meets it: PgBouncer's words and habits, on one connection each."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading

from deploy.local.net import free_port

_REFUSAL = "unsupported startup parameter: {}"


class Pooler(socketserver.ThreadingTCPServer):
    """Refuses the startup parameters named, as PgBouncer does; else forwards, and gives its own process ids.

    `refuses` is PgBouncer 1.18's list by default; with `ignore_startup_parameters = options` it is without that.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target_port: int, refuses: tuple[str, ...] = ("options", "replication")) -> None:
        self.port = free_port()
        self.target_port, self.refuses = target_port, refuses
        super().__init__(("127.0.0.1", self.port), _Client)

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class _Client(socketserver.StreamRequestHandler):
    server: Pooler

    def handle(self) -> None:
        startup = self._startup()
        while struct.unpack("!I", startup[:4])[0] != 3 << 16:  # TLS or GSS asked for
            self.wfile.write(b"N")
            startup = self._startup()
        given = startup[4:].split(b"\0")[:-2:2]
        refused = next((name for name in self.server.refuses if name.encode() in given), None)
        if refused:
            self._refuse(_REFUSAL.format(refused))
            return
        with socket.create_connection(("127.0.0.1", self.server.target_port)) as server:
            server.sendall(struct.pack("!I", len(startup) + 4) + startup)
            threading.Thread(target=self._upstream, args=(server,), daemon=True).start()
            self._downstream(server)

    def _startup(self) -> bytes:
        (length,) = struct.unpack("!I", self.rfile.read(4))
        return self.rfile.read(length - 4)

    def _refuse(self, text: str) -> None:
        fields = b"SFATAL\0C08P01\0M" + text.encode() + b"\0\0"
        self.wfile.write(b"E" + struct.pack("!I", len(fields) + 4) + fields)

    def _upstream(self, server: socket.socket) -> None:
        try:
            while chunk := self.request.recv(65536):
                server.sendall(chunk)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side has gone; the other direction ends by itself

    def _downstream(self, server: socket.socket) -> None:
        """Forward message by message; in BackendKeyData (K) stands the pooler's own process id."""
        with server.makefile("rb") as messages:
            while head := messages.read(5):
                kind, length = struct.unpack("!cI", head)
                body = messages.read(length - 4)
                if kind == b"K":
                    body = struct.pack("!I", 0x70676872) + body[4:]
                self.wfile.write(head + body)
