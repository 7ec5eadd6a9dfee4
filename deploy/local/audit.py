"""The demo's audit: rows, events, mails and calls of one run, each held against the others."""

import email
import json
from collections import Counter
from contextlib import closing
from email.policy import default
from typing import Any

import psycopg2
from rich.console import Console
from rich.table import Table

from deploy.local import badgeyay
from deploy.local.registrations import Application, Registered, all_ids
from deploy.local.stack import Stack
from deploy.local.topics import committed

_TOPIC = "badgeyay.public.User"
_MAILS = ("welcome", "verify")
_SERVICES = {"free": ("newsletter",), "pro": ("newsletter", "storage")}
_FINAL = ("sent", "skipped", "dead", "unknown", "cancelled")
_DELIVERIES = "SELECT key, rule, target, state FROM pgherald.delivery WHERE key LIKE %s"


class Audit:
    """Compares what the application committed with what everyone heard of it."""

    def __init__(self, stack: Stack, application: Application) -> None:
        self._stack = stack
        self._application = application
        self._users = application.users

    def finished(self) -> bool:
        """Tell whether every delivery that there must be has come to its end."""
        ended = Counter((key, target) for key, _, target, state in self._deliveries() if state in _FINAL)
        return all(ended[_key(user), target] for user in self._users.values() for target in (*_MAILS, *_services(user)))

    def report(self, console: Console) -> bool:
        """Print the audit; tell whether it holds."""
        deliveries = self._deliveries()
        doubt = {(key, target) for key, _, target, state in deliveries if state == "unknown"}
        checks = [
            ("rows committed", len(self._users), self._table()),
            ("events, one a row", len(self._users), self._events()),
            ("mails, welcome and verify once each", 2 * len(self._addressed()), self._mails(doubt)),
            ("calls, one a service of the plan", sum(len(_services(u)) for u in self._users.values()), self._calls()),
            (
                "skipped for want of an address",
                2 * (len(self._users) - len(self._addressed())),
                self._skipped(deliveries),
            ),
        ]
        table = Table("audit", "expected", "found", "", box=None)
        for what, expected, found in checks:
            table.add_row(
                what, str(expected), str(found), "[green]holds[/green]" if found == expected else "[red]FAILS[/red]"
            )
        console.print(table)
        console.print(f"in doubt (the mailer was killed while a final dot was on its way): {len(doubt)}")
        return all(found == expected for _, expected, found in checks)

    def _addressed(self) -> list[Registered]:
        return [user for user in self._users.values() if user.email]

    def _table(self) -> int:
        ids = all_ids(self._stack.postgres.dsn(badgeyay.DATABASE), self._application.run)
        return len(ids) if ids == set(self._users) else -1

    def _events(self) -> int:
        """Count the created events of this run; -1 when one is missing, comes twice or was rolled back."""
        records = committed(self._stack.kafka.bootstrap, _TOPIC)
        values = (json.loads(record.value) for record in records if record.value)
        seen = Counter(value["after"]["id"] for value in values if value["op"] == "c")
        of_run = {id_: count for id_, count in seen.items() if id_.startswith(f"demo-{self._application.run}-")}
        return len(of_run) if set(of_run) == set(self._users) and set(of_run.values()) == {1} else -1

    def _mails(self, doubt: set[tuple[str, str]]) -> int:
        """Count the mails of this run; one in doubt counts as what it is, there or not, but never twice."""
        seen = Counter(
            (mail["To"].addresses[0].addr_spec.partition("@")[0], str(mail["Subject"])) for mail in self._inbox()
        )
        twice = sum(count - 1 for count in seen.values())
        missing = 2 * len(self._addressed()) - len(seen)
        mails_in_doubt = sum(1 for _, target in doubt if target in _MAILS)
        return 2 * len(self._addressed()) if twice == 0 and 0 <= missing <= mails_in_doubt else len(seen) + twice

    def _inbox(self) -> list[Any]:
        mails = [email.message_from_bytes(p.read_bytes(), policy=default) for p in self._stack.mails.glob("[!.]*.eml")]
        mine = f"demo-{self._application.run}-"
        return [mail for mail in mails if str(mail["To"].addresses[0].addr_spec).startswith(mine)]

    def _calls(self) -> int:
        lines = [json.loads(line) for line in self._stack.calls.read_text().splitlines()]
        keys = {_key(user) for user in self._users.values()}
        mine = [call for call in lines if call["verified"] and call["body"]["data"]["key"] in keys]
        return len({call["webhook_id"] for call in mine})

    def _skipped(self, deliveries: list[tuple[str, str, str, str]]) -> int:
        return sum(1 for _, _, target, state in deliveries if state == "skipped" and target in _MAILS)

    def _deliveries(self) -> list[tuple[str, str, str, str]]:
        dsn = self._stack.postgres.dsn(badgeyay.DATABASE)
        with closing(psycopg2.connect(dsn)) as session, session.cursor() as cursor:
            cursor.execute("SELECT to_regclass('pgherald.delivery')")
            if cursor.fetchone() == (None,):
                return []
            cursor.execute(_DELIVERIES, (f'%"demo-{self._application.run}-%',))
            return cursor.fetchall()


def _key(user: Registered) -> str:
    return f'{{"id":"{user.id}"}}'


def _services(user: Registered) -> tuple[str, ...]:
    return _SERVICES[user.plan]
