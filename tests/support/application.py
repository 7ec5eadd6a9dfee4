"""What stands around pgherald in an e2e test: Badgeyay's table, an inbox that keeps every mail, called services."""

from __future__ import annotations

import base64
import email
import json
import random
import secrets
import threading
from contextlib import closing
from dataclasses import dataclass, field
from email.policy import default
from pathlib import Path

import psycopg2

from deploy.local.net import free_port
from deploy.local.stack import Script
from tests.support.database import Database

TABLE = Path("deploy/local/badgeyay.sql")
INSERT = 'INSERT INTO "User" (id, username, email, password, created_at, plan) VALUES (%s, %s, %s, %s, now(), %s)'
SERVICES = ("newsletter", "storage")
PLANS = {"free": ("newsletter",), "pro": ("newsletter", "storage")}


def make_keys(folder: Path) -> Path:
    """Make the services' secrets."""
    folder.mkdir()
    for name in SERVICES:
        (folder / name).write_text("whsec_" + base64.b64encode(secrets.token_bytes(24)).decode())
    return folder


def settings(smtp_port: int, http_port: int, keys: Path, *, plans_on: str = '"created"') -> str:
    """Write what the settings file says of mails, services and rules."""
    services = "".join(
        f'[services.{name}]\nurl = "http://127.0.0.1:{http_port}/{name}"\nallow_private = true\n'
        f'secret_file = "{keys / name}"\n'
        for name in SERVICES
    )
    return f"""
[templates]
path = "{Path("templates").resolve()}"
[consume]
lease = "8s"
[user]
name = "username"
plan = "plan"
[smtp]
host = "127.0.0.1"
port = {smtp_port}
security = "none"
connections = 4
sender = "Badgeyay <no-reply@example.org>"
[links]
base_url = "https://app.example.org/verify"
secret = "a long secret for links"
[[rules]]
name = "welcome"
on = "created"
mail = "welcome"
backoff_first = "100ms"
[[rules]]
name = "verify"
on = "created"
mail = "verify"
in_doubt = "resend"
backoff_first = "100ms"
[[rules]]
name = "plans"
on = {plans_on}
services = "plans"
backoff_first = "100ms"
[plans]
free = ["newsletter"]
pro = ["newsletter", "storage"]
{services}"""


@dataclass
class World:
    """The inbox and the services, as processes of their own: killing a consumer never reaches them."""

    folder: Path
    _servers: list[Script] = field(default_factory=list)

    def __enter__(self) -> World:
        self.folder.mkdir()
        keys = make_keys(self.folder / "keys")
        self.smtp_port, self.http_port = free_port(), free_port()
        run, log = self.folder / "run", self.folder
        self._servers = [
            Script("inbox", run / "inbox", log / "inbox.log", self.smtp_port, self.folder / "inbox"),
            Script(
                "receiver", run / "receiver", log / "receiver.log", self.http_port, self.folder / "calls.jsonl", keys
            ),
        ]
        for server in self._servers:
            server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.stop()

    @property
    def settings(self) -> str:
        """What the settings file says of mails, services and rules."""
        return settings(self.smtp_port, self.http_port, self.folder / "keys")

    def mails(self) -> list[tuple[str, str]]:
        """(Message-ID, recipient) of every mail that the relay accepted."""
        parsed = [
            email.message_from_bytes(path.read_bytes(), policy=default)
            for path in sorted((self.folder / "inbox").glob("[!.]*.eml"))
        ]
        return [(str(mail["Message-ID"]), str(mail["To"].addresses[0].addr_spec)) for mail in parsed]

    def calls(self) -> list[tuple[str, str, str]]:
        """(webhook-id, service, user's key) of every call that a service accepted and had not had before."""
        lines = [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]
        assert all(line["verified"] for line in lines)
        return [
            (line["webhook_id"], line["service"], line["body"]["data"]["key"])
            for line in lines
            if not line["duplicate"]
        ]


class Registrations(threading.Thread):
    """Registers users under load, in transactions of several kinds, some of which roll back."""

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__()
        self._database = database
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self._number = 0
        self.start()

    def run(self) -> None:
        with closing(self._database.connect()) as session, session.cursor() as cursor:
            while not self._ended.wait(0.02):
                self._transaction(cursor)

    def _transaction(self, cursor: psycopg2.extensions.cursor) -> None:
        cursor.execute("BEGIN")
        for _ in range(self._random.choice((1, 1, 1, 3))):
            self._number += 1
            plan = self._random.choice(("free", "pro"))
            address = None if self._random.random() < 0.05 else f"u{self._number}@example.org"
            cursor.execute(INSERT, (f"u{self._number}", f"User {self._number}", address, "secret", plan))
        cursor.execute("ROLLBACK" if self._random.random() < 0.1 else "COMMIT")

    def finish(self) -> None:
        self._ended.set()
        self.join()
