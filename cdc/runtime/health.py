"""/metrics, /live and /ready over HTTP, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.log import get_logger

_log = get_logger("health")


def serve(listen: str, ready: Callable[[], bool]) -> ThreadingHTTPServer | None:
    """Serve at `host:port` until the process ends; empty: nowhere; port 0: a free one, which is logged.

    `ready` tells whether the process does its work now. Raises ConfigInvalid when the address can't be had.
    """
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    try:
        server = ThreadingHTTPServer((host.strip("[]"), int(port)), _handler(ready))
    except OSError as exc:
        raise ConfigInvalid(f"metrics.listen: can't listen on {listen}: {exc.strerror}") from exc
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    _log.info("health_listening", address=f"{host}:{server.server_port}")
    return server


def _handler(ready: Callable[[], bool]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, generate_latest(), CONTENT_TYPE_LATEST)
            elif self.path == "/live":
                self._answer(200, b"live\n")
            elif self.path == "/ready":
                self._answer(*((200, b"ready\n") if ready() else (503, b"not ready\n")))
            else:
                self._answer(404, b"/metrics /live /ready\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, _format: str, *_args: object) -> None:
            """Say nothing: probes come every few seconds."""

    return Handler
