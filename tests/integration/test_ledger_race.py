"""Processes that insert, claim, finish, die and take back at the same time: no key stuck, no two heads, order kept."""

import random
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest

from cdc.runtime.errors import RetryableError
from consumers.delivery import Delivery, Mark
from consumers.ledger import Ledger
from consumers.marks import Marks
from consumers.migrations import migrate
from consumers.outcome import Dead, GivenBack, Outcome, Retry, Sent, Unknown
from deploy.local.net import until
from tests.support import local
from tests.support.database import Database
from tests.support.ledgers import LANE, RULES, assert_one_head_per_queue, entry, states
from tests.support.servers import PostgresServer

ERROR: dict[str, object] = {"class": "Deferred", "code": None, "reason": "later"}
#: Holds an inserting transaction open while someone has the lock.
HOLD_INSERTS = """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
    CREATE TRIGGER hold AFTER INSERT ON pgherald.delivery FOR EACH STATEMENT EXECUTE FUNCTION hold();
"""
KEYS = 4
EVENTS = 240


class Round:
    """Two inserters that store every event, one of them twice over, and workers that finish, retry and die."""

    def __init__(self, dsn: str, seed: int) -> None:
        self.dsn = dsn
        self.seed = seed
        self.ended: defaultdict[str, list[int]] = defaultdict(list)
        self.failures: list[BaseException] = []
        self.inserting = threading.Event()

    def run(self) -> None:
        inserters = [self._start(self._insert, part) for part in range(2)]
        workers = [self._start(self._work, number) for number in range(4)]
        for thread in inserters:
            thread.join()
        self.inserting.set()
        for thread in workers:
            thread.join(60)
            assert not thread.is_alive(), "deliveries are stuck"
        assert self.failures == []

    def _start(self, work: Callable[[Ledger, random.Random], None], number: int) -> threading.Thread:
        def guarded() -> None:
            name = f"{work.__name__}-{number}"
            with closing(Ledger(self.dsn, "mail", name)) as ledger:
                try:
                    work(ledger, random.Random(f"{self.seed}-{name}"))
                except BaseException as exc:
                    self.failures.append(exc)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def _insert(self, ledger: Ledger, chance: random.Random) -> None:
        """Store partitions as Kafka gives them: in order per key, some polls again after a rebalance."""
        mine = list(range(EVENTS))
        while mine:
            poll = mine[: chance.randint(1, 12)]
            ledger.store([entry(lsn, f"k{lsn % KEYS}") for lsn in poll])
            del mine[: len(poll) if chance.random() < 0.7 else chance.randint(0, len(poll))]

    def _work(self, ledger: Ledger, chance: random.Random) -> None:
        while not self.inserting.is_set() or ledger.unfinished():
            for leased in ledger.expired(RULES):
                ledger.mark([Mark(leased, Retry(0, ERROR), leased.leased_by, expired=True)])
            dies = chance.random() < 0.1
            claimed = ledger.claim({LANE: 3}, RULES, 3, 0.05 if dies else 60)
            if not dies:
                self._finish(ledger, claimed, chance)

    def _finish(self, ledger: Ledger, claimed: list[Delivery], chance: random.Random) -> None:
        outcomes: list[Outcome] = [Sent({}), Dead(ERROR), Unknown(ERROR), Retry(0, ERROR), GivenBack()]
        marks = [Mark(delivery, chance.choice(outcomes), ledger.worker) for delivery in claimed]
        for mark in marks:
            # Before the mark: the next of the key can only be claimed after it.
            if mark.finishes:
                self.ended[str(mark.delivery.key)].append(mark.delivery.id)
        assert ledger.mark(marks) == {delivery.id for delivery in claimed}


@pytest.mark.parametrize("seed", range(3))
def test_no_interleaving_leaves_a_key_stuck_or_breaks_its_order(database: Database, seed: int) -> None:
    migrate(database.dsn)
    turn = Round(database.dsn, seed)
    turn.run()
    assert_one_head_per_queue(database)
    ended = states(database)
    assert sorted(ended) == list(range(EVENTS))
    assert set(ended.values()) <= {"sent", "dead", "unknown"}
    for ids in turn.ended.values():
        rows = database.execute("SELECT id, position_lsn::text FROM pgherald.delivery WHERE id = ANY (%s)", (ids,))
        position = {row_id: int(lsn.split("/")[1], 16) for row_id, lsn in rows}
        assert [position[row_id] for row_id in ids] == sorted(position.values())


def test_workers_that_share_few_sessions_keep_the_order_too(database: Database) -> None:
    """Behind a pooler of transactions: the locks of queues are the transaction's."""
    migrate(database.dsn)
    with local.pooler(database.dsn) as pooler:
        Round(pooler.dsn, seed=5).run()
    assert_one_head_per_queue(database)
    assert set(states(database).values()) <= {"sent", "dead", "unknown"}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_delivery_stored_while_its_head_finishes_is_not_stuck(database: Database, isolation: str) -> None:
    """The race itself: the insert has seen the head and is not committed when the head is finished.

    Whatever the database's default is: the statement behind the lock must see what its last holder committed.
    """
    migrate(database.dsn)
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_isolation = '{isolation}'")
    database.execute(HOLD_INSERTS)
    with closing(Ledger(database.dsn, "mail", "me")) as mine, closing(Ledger(database.dsn, "mail", "other")) as other:
        mine.store([entry(1)])
        (delivery,) = mine.claim({LANE: 1}, RULES, 1, 60)
        with closing(database.connect()) as session, session.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(42)")
            insert = threading.Thread(target=other.store, args=([entry(2)],))
            insert.start()
            until(lambda: waiting(database) == 1, 10, "the insert to be held")
            finish = threading.Thread(target=mine.mark, args=([Mark(delivery, Sent({}), "me")],))
            finish.start()
            until(lambda: waiting(database) == 2 or not finish.is_alive(), 10, "the finish to wait for the insert")
        insert.join(10)
        finish.join(10)
        assert_one_head_per_queue(database)
        assert len(mine.claim({LANE: 1}, RULES, 1, 60)) == 1


def waiting(database: Database) -> int:
    ((count,),) = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'advisory'", (database.name,)
    )
    return int(count)


def test_invariants_hold_at_every_moment(database: Database) -> None:
    """Look from outside while others work: each look is one snapshot."""
    migrate(database.dsn)
    turn = Round(database.dsn, seed=99)
    running = threading.Thread(target=turn.run)
    running.start()
    while running.is_alive():
        assert_one_head_per_queue(database)
    running.join()
    assert turn.failures == []


def test_the_ledger_goes_on_after_its_database_restarts(database: Database, postgres: PostgresServer) -> None:
    migrate(database.dsn)
    with closing(Ledger(database.dsn, "mail", "me")) as ledger:
        ledger.store([entry(1), entry(2)])
        (delivery,) = ledger.claim({LANE: 1}, RULES, 1, 60)
        postgres.kill()
        with pytest.raises(RetryableError):
            ledger.mark([Mark(delivery, Sent({}), "me")])
        postgres.start()
        kept = until(lambda: ledger.mark([Mark(delivery, Sent({}), "me")]), 20, "the mark", ignore=(RetryableError,))
        assert kept == {delivery.id}
        assert_one_head_per_queue(database)


def test_an_outcome_that_meets_a_deadlock_is_recorded(database: Database) -> None:
    migrate(database.dsn)
    with closing(Ledger(database.dsn, "mail", "me")) as ledger:
        ledger.store([entry(1, "a"), entry(2, "b")])
        first, second = ledger.claim({LANE: 2}, RULES, 2, 60)
        marks = Marks(partial(Ledger, database.dsn, "mail", "me"))
        with closing(database.connect()) as session, session.cursor() as cursor, ThreadPoolExecutor(1) as pool:
            cursor.execute("SET deadlock_timeout = '1min'; BEGIN")
            lock = "SELECT FROM pgherald.delivery WHERE id = %s FOR UPDATE"
            cursor.execute(lock, (second.id,))
            asked: list[Future[bool | None]] = [Future(), Future()]
            for delivery, answer in zip((first, second), asked, strict=True):  # so that one transaction has both
                marks.finish(Mark(delivery, Sent({}), "me"), answer.set_result)
            pool.submit(marks.run)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'transactionid'"
            until(lambda: database.execute(waits, (database.name,)) == [(1,)], 10, "the marks to wait for the row")
            cursor.execute(lock, (first.id,))  # crosswise: the marks' session finds out, and is the one that gives way
            cursor.execute("COMMIT")
            assert [one.result(20) for one in asked] == [True, True]
            marks.end()
    assert states(database) == {1: "sent", 2: "sent"}
