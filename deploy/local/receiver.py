"""The services that depend on a user, as one webhook receiver: it checks each call's signature and writes it down.

    python -m deploy.local.receiver PORT CALLS_FILE SECRETS_FOLDER

A call to /NAME is for the service NAME, whose Standard Webhooks secret is SECRETS_FOLDER/NAME. Each call is a JSON line
of CALLS_FILE. As a service should, it works once a webhook-id: a call that comes again is written with `duplicate` true
and answered with 200, as the first one was. A call that is not signed right is written with `verified` false, without
its body, and answered with 401.
"""

import argparse
import json
import signal
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

LARGEST_BODY_BYTES = 1024 * 1024


class Calls:
    """What was called, in a file that survives a restart. Threads share it."""

    def __init__(self, path: Path) -> None:
        path.touch()
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        self._seen = {(line["service"], line["webhook_id"]) for line in lines if line["verified"]}
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def accept(self, call: dict[str, Any]) -> None:
        with self._lock:
            identity = (call["service"], call["webhook_id"])
            self._write({**call, "verified": True, "duplicate": identity in self._seen})
            self._seen.add(identity)

    def refuse(self, call: dict[str, Any]) -> None:
        with self._lock:
            self._write({**call, "body": None, "verified": False, "duplicate": False})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


class Receiver(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, port: int, calls: Calls, secrets: Path) -> None:
        self.calls = calls
        self.webhooks = {path.name: Webhook(path.read_text().strip()) for path in secrets.iterdir()}
        super().__init__(("127.0.0.1", port), Exchange)


class Exchange(BaseHTTPRequestHandler):
    """One connection; it may carry many calls."""

    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        service = self.path.strip("/")
        webhook = self.server.webhooks.get(service)
        length = int(self.headers.get("content-length", 0))
        if length > LARGEST_BODY_BYTES:
            self._answer(413)
            return
        body = self.rfile.read(length)
        if len(body) < length:  # the caller died in the middle: no call was made, and nobody waits for an answer
            self.close_connection = True
        else:
            self._answer(self._called(service, webhook, body) if webhook else 404)

    def _called(self, service: str, webhook: Webhook, body: bytes) -> int:
        call = {
            "service": service,
            "webhook_id": self.headers.get("webhook-id"),
            "idempotency_key": self.headers.get("idempotency-key"),
            "received_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        try:
            call["body"] = webhook.verify(body, dict(self.headers.items()))
        except (WebhookVerificationError, ValueError):  # ValueError: a signature that is not even base64
            self.server.calls.refuse(call)
            return 401
        self.server.calls.accept(call)
        return 200

    def _answer(self, status: int) -> None:
        self.close_connection = status == 413  # its body was not read
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: calls are written down, and a log must not hold what is in them."""


def main() -> None:
    arguments = argparse.ArgumentParser(description="Check and write down webhook calls.")
    arguments.add_argument("port", type=int)
    arguments.add_argument("calls", type=Path)
    arguments.add_argument("secrets", type=Path)
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Receiver(given.port, Calls(given.calls), given.secrets).serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
