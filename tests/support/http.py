"""An HTTP endpoint that answers as it is told and remembers what it was asked."""

import socket
import ssl
import sys
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.misbehaving import Misbehaving
from tests.support.script import Fault, Script


@dataclass(frozen=True)
class Request:
    """One request as it came; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass(frozen=True)
class Answer:
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_s: float = 0.0


class Endpoint(Misbehaving):
    """A server on a port of 127.0.0.1 that answers every POST with 204, unless its script says otherwise.

    The places of a script are paths ("/newsletter"), or `any`; a step is an Answer or a Fault. With `tls` it speaks
    https.
    """

    def __init__(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(port)
        self.tls = tls
        self.script: Script[Answer | Fault] = Script()
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def listen(self) -> ThreadingHTTPServer:
        return _Server(self)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        super().__init__((endpoint.host, endpoint.port), _Exchange)

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        if self.endpoint.tls:
            # the handshake is the request's thread's: it may never come
            request = self.endpoint.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        return request, address

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that left."""
        if not isinstance(sys.exception(), OSError):
            raise


class _Exchange(BaseHTTPRequestHandler):
    """One request; the connection ends with it, so that stop() waits for nobody."""

    server: _Server

    def do_POST(self) -> None:
        endpoint = self.server.endpoint
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {key.lower(): value for key, value in self.headers.items()}
        endpoint.requests.append(Request(self.path, headers, body, time.time()))
        step = endpoint.script.take(self.path, "any")
        if step is Fault.HANG:
            endpoint.released.clear()
            endpoint.released.wait()
        if step is not Fault.DROP:
            self._send(step if isinstance(step, Answer) else Answer())

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.delay_s)
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the requests are kept."""
