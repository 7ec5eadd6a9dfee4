"""What `pgherald consume mail` runs beside its ingest, in this process: the ledger, the loop, the mail effect."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cdc.runtime.lifecycle import Stop
from cdc.runtime.settings import Settings
from consumers import lanes
from consumers.deliver import Deliver
from consumers.delivery import Entry, Planned
from consumers.ledger import Ledger
from consumers.mail.effect import MailEffect
from consumers.marks import Marks
from consumers.process import Crew
from consumers.rules import Rules
from tests.support.database import Database
from tests.support.ledgers import entry
from tests.support.smtp import Relay

TEMPLATES = Path(__file__).parents[2] / "templates"


def settings(database: Database, relay: Relay, *, smtp: dict[str, Any] | None = None, **given: Any) -> Settings:
    """Give settings in which the rule `welcome` mails whoever is created."""
    usual = {"host": relay.host, "port": relay.port, "security": "none", "sender": "App <app@example.org>"}
    rule = {"name": "welcome", "on": "created", "mail": "welcome", "backoff_first": "10ms", "backoff_max": "20ms"}
    return Settings.model_validate(
        {
            "source": {"name": "t", "dsn": database.dsn, "tables": [{"name": "users"}]},
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "templates": {"path": str(TEMPLATES)},
            "smtp": usual | {"connections": 2} | (smtp or {}),
            "user": {"email": "email", "name": "name"},
            "rules": [rule],
        }
        | given
    )


def registered(lsn: int, email: str | None, name: str | None = "Ada", rule: str = "welcome") -> Entry:
    """Make the event of a user who registered, with the delivery of a rule's welcome mail."""
    row = {"id": lsn, "email": email, "name": name}
    source = {"name": "t", "ts_ms": int(time.time() * 1000), "schema": "public", "table": "users"}
    value = json.dumps({"op": "c", "source": source, "before": None, "after": row}).encode()
    return entry(lsn, json.dumps({"id": lsn}), planned=[Planned(rule, "welcome", f"mail:{rule}")], value=value)


@contextmanager
def mailing(given: Settings) -> Iterator[Deliver]:
    """Deliver what is in the ledger; a thread that failed fails the test."""
    stop, open_ledger = Stop(), partial(Ledger, given.ledger_dsn, "mail", "test")
    ledger, marks, crew, writer = open_ledger(), Marks(open_ledger), Crew(stop), Crew(stop)
    open_lanes = lanes.of(given, "mail", time.monotonic())
    with closing(MailEffect(given)) as effect:
        deliver = Deliver(
            ledger=ledger,
            marks=marks,
            effect=effect,
            rules=Rules(given, "mail"),
            lanes=open_lanes,
            lease_s=60.0,
            stop=stop,
        )
        writer.start("marks", marks.run)
        for number in range(open_lanes.workers):
            crew.start(f"worker-{number}", deliver.work)
        crew.start("claim", deliver.run)
        try:
            yield deliver
        finally:
            stop.request()
            deliver.wake.set()
            crew.join(30)
            marks.end()
            writer.join(10)
            ledger.close()
    assert (crew.failure, writer.failure) == (None, None)
