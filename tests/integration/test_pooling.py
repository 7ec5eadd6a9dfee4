"""The ledger behind a pooler that gives each transaction whichever session is free."""

from contextlib import closing

from cdc.runtime.lifecycle import Stop
from consumers import retention
from consumers.delivery import Mark
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.operations import Filter, Operations
from consumers.operator import Operator
from consumers.outcome import Sent
from consumers.patience import Patience
from tests.support.database import Database
from tests.support.ledgers import LANE, RULES, entry
from tests.support.pooling import pooled

#: What a session holds that outlives a transaction.
LEFT = """
    SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors WHERE name <> ''),
        current_setting('transaction_isolation'),
        current_setting('transaction_read_only'), current_setting('lock_timeout'),
        current_setting('idle_in_transaction_session_timeout')
"""
CLEAN = (0, 0, 0, "read committed", "off", "0", "0")


def test_nothing_counts_on_a_session_or_leaves_something_in_it(database: Database) -> None:
    with (
        pooled(database.dsn, 3) as (dsn, pool),
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
        assert {row for session in pool.all for row in session.ask(LEFT)} == {CLEAN}
