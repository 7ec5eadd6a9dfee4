"""The ledger behind PgBouncer, which gives each transaction whichever session is free."""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import psycopg2
import pytest

from cdc.runtime.lifecycle import Stop
from consumers import retention
from consumers.delivery import Mark
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.operations import Filter, Operations
from consumers.operator import Operator
from consumers.outcome import Sent
from consumers.patience import Patience
from deploy.local.net import until
from tests.support import local
from tests.support.database import Database
from tests.support.ledgers import LANE, RULES, entry, states
from tests.support.mailer import mailing, registered, settings
from tests.support.pooler import SESSIONS, PgBouncer
from tests.support.smtp import Relay

#: What a session holds that outlives a transaction.
LEFT = """
    SELECT pg_backend_pid(),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors WHERE name <> ''),
        current_setting('transaction_isolation'),
        current_setting('transaction_read_only'), current_setting('lock_timeout'),
        current_setting('idle_in_transaction_session_timeout')
"""
CLEAN = (0, 0, 0, "read committed", "off", "0", "0")


@pytest.fixture
def pooler(database: Database) -> Iterator[PgBouncer]:
    with local.pooler(database.dsn) as started:
        yield started


def sessions(pooler: PgBouncer) -> dict[int, tuple[object, ...]]:
    """Open a transaction on every session of the pool at once, and tell by process id what it holds."""
    found = {}
    with ExitStack() as opened:
        for _ in range(SESSIONS):
            client = opened.enter_context(closing(psycopg2.connect(pooler.dsn)))
            opened.callback(client.rollback)  # who leaves in the middle of a transaction ends the session
            cursor = opened.enter_context(client.cursor())
            cursor.execute(LEFT)
            for pid, *left in cursor.fetchall():
                found[pid] = tuple(left)
    return found


def test_nothing_counts_on_a_session_or_leaves_something_in_it(pooler: PgBouncer) -> None:
    before = sessions(pooler)
    assert len(before) == SESSIONS
    dsn = pooler.dsn
    with (
        closing(Ledger(dsn, "mail", "me")) as ledger,
        closing(Operations(dsn)) as operations,
        closing(Operator(dsn, "ada")) as operator,
    ):
        migrate(dsn)
        ledger.store([entry(lsn, f"k{lsn}") for lsn in range(600)])
        assert len(list(operations.find(Filter()))) == 600
        assert operator.cancel(operations.pages(Filter(), 10**9), {}) == 600
        assert operator.replay(operations.pages(Filter(), 10**9), {}, ["cancelled"], None) == 600
        operator.pause("mail", LANE, "looking")
        assert ledger.claim({LANE: 1}, RULES, 1, 60) == []
        operator.resume("mail", LANE)
        (delivery,) = ledger.claim({LANE: 1}, RULES, 1, 60)
        assert ledger.sending([delivery.id]) == ledger.mark([Mark(delivery, Sent({}), "me")]) == {delivery.id}
        stop = Stop()
        assert retention.sweep(ledger, 1, Patience(stop, "the ledger"), stop) == 0
    assert sessions(pooler) == dict.fromkeys(before, CLEAN)


def test_mails_leave_once_through_the_pool_and_when_it_dies(
    pooler: PgBouncer, database: Database, relay: Relay
) -> None:
    migrate(pooler.dsn)
    users = [f"user{lsn}@example.org" for lsn in range(1, 201)]
    with closing(Ledger(database.dsn, "mail", "test")) as ledger:
        ledger.store([registered(lsn, user) for lsn, user in enumerate(users, 1)])
        with mailing(settings(database, relay, ledger={"dsn": pooler.dsn})):
            until(lambda: len(relay.accepted) > 20, 20, "some mails", every_s=0.001)
            pooler.kill()
            pooler.start()
            until(lambda: ledger.unfinished() == 0, 30, "all mails to leave")
    assert sorted(mail.recipients[0] for mail in relay.accepted) == sorted(users)
    assert set(states(database).values()) == {"sent"}
