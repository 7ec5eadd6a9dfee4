"""Prints each mail and each service call of a run as it arrives, with the time since the commit."""

import email
import json
import threading
import time
from collections import defaultdict
from email.policy import default
from pathlib import Path
from typing import Self

from rich.console import Console

from deploy.local.commands import Commands
from deploy.local.net import until
from deploy.local.registrations import Application
from deploy.local.stack import Stack


class Watch(threading.Thread):
    """Looks at the inbox and at the calls, many times a second."""

    def __init__(self, stack: Stack, application: Application, commands: Commands, console: Console) -> None:
        super().__init__(daemon=True)
        self._stack = stack
        self._application = application
        self._commands = commands
        self._console = console
        self._seen = set(stack.mails.glob("[!.]*.eml"))
        self._calls_read = stack.calls.stat().st_size if stack.calls.exists() else 0
        self._ended = threading.Event()
        self.first_at = 0.0  #: when the first mail was seen (monotonic clock)
        #: Milliseconds from the commit to the inbox, of each mail of a user of this run.
        self.after_ms: dict[str, list[float]] = defaultdict(list)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
        self._look()

    def until_all_have_mail(self) -> None:
        """Wait until every user with an address has both mails. Raises TimeoutError."""
        users = [user.id for user in self._application.users.values() if user.email]

        def all_have() -> bool:
            self._commands.check()
            return all(len(self.after_ms[id_]) >= 2 for id_ in users)

        until(all_have, 30, "the mails of all users so far")

    def run(self) -> None:
        while not self._ended.wait(0.02):
            self._look()

    def _look(self) -> None:
        for path in sorted(set(self._stack.mails.glob("[!.]*.eml")) - self._seen):
            self._seen.add(path)
            self._mail(path)
        with self._stack.calls.open("rb") as calls:
            calls.seek(self._calls_read)
            for line in calls:
                self._calls_read += len(line)
                self._call(json.loads(line))

    def _mail(self, path: Path) -> None:
        mail = email.message_from_bytes(path.read_bytes(), policy=default)
        address = mail["To"].addresses[0].addr_spec
        after = self._after_commit(address.partition("@")[0], path.stat().st_mtime)
        self._console.print(f"  mail  {after}  {mail['Subject']!s:<33} {address}", markup=False)

    def _call(self, call: dict[str, object]) -> None:
        body = call["body"]
        said = body["data"] if isinstance(body, dict) else {}
        kind = body["type"] if isinstance(body, dict) else "refused"
        self._console.print(f"  call  {'':>9}  {kind} {call['service']} {said.get('key', '')}", markup=False)

    def _after_commit(self, user_id: str, arrived_at: float) -> str:
        user = self._application.users.get(user_id)
        if user is None:
            return f"{'':>9}"
        # The relay may have the mail before the application's COMMIT has returned.
        after_ms = max(0.0, arrived_at - user.committed_at) * 1000
        self.after_ms[user_id].append(after_ms)
        self.first_at = self.first_at or time.monotonic()
        return f"{after_ms:6.0f} ms"
