"""A consumer process that is stopped and woken: whoever took its work meanwhile decides, and it does nothing late."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from consumers.delivery import Mark
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.outcome import Dead
from deploy.local.net import until
from tests.support import role
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.ledgers import RULES, entry, states
from tests.support.script import Fault
from tests.support.servers import KafkaServer
from tests.support.smtp import Relay

ADA = (
    b'{"op":"c","source":{"name":"t","ts_ms":1,"schema":"public","table":"users"},'
    b'"after":{"id":1,"email":"ada@example.org"}}'
)
WAITING = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgherald mail' AND wait_event_type = 'Lock'"


@pytest.fixture
def deployment(tmp_path: Path, database: Database, kafka: KafkaServer, name: str, relay: Relay) -> Iterator[Deployment]:
    more = f"""
[templates]
path = "{Path("templates").resolve()}"
[consume]
lease = "8s"
[smtp]
host = "127.0.0.1"
port = {relay.port}
security = "none"
sender = "Badgeyay <no-reply@example.org>"
[[rules]]
name = "welcome"
on = "created"
mail = "welcome"
"""
    with Deployment(tmp_path / "d", database, kafka, name, more=more) as made:
        yield made


def test_a_mailer_paused_in_a_ledger_transaction_holds_nobody_up_and_sends_nothing_late(
    deployment: Deployment, database: Database, relay: Relay
) -> None:
    migrate(role.dsn(database))
    relay.release()
    relay.script.next("data", Fault.HANG)
    with closing(Ledger(database.dsn, "mail", "test")) as ledger, closing(psycopg2.connect(database.dsn)) as blocker:
        ledger.store([entry(1, value=ADA)])
        mailer = deployment.start("consume", "mail")
        until(lambda: not relay.released.is_set(), 30, "the mail to begin")
        with blocker, blocker.cursor() as cursor:
            cursor.execute("SELECT FROM pgherald.delivery FOR UPDATE")
            relay.release()
            until(lambda: database.execute(WAITING), 5, "the mailer to ask for permission", every_s=0.01)
            mailer.pause()
        leased = until(lambda: ledger.expired(RULES), 15, "the lease to run out")[0]
        taken = Mark(leased, Dead({"class": "Test", "code": None, "reason": "taken back"}), leased.leased_by, True)
        began_at = time.monotonic()
        assert ledger.mark([taken]) == {leased.id}
        assert time.monotonic() - began_at < 5
        mailer.wake()
        until(lambda: mailer.said("delivery_taken_over"), 10, "the mailer to see that it is late")
    assert states(database) == {1: "dead"}
    assert relay.accepted == []
    assert mailer.stop() == 0
