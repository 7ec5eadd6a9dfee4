"""Payloads leave the ledger when they are old, and nothing else does."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdc.runtime.lifecycle import Stop
from consumers import ledger as ledgers
from consumers import retention
from consumers.delivery import Mark, Planned
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.outcome import Dead, Outcome, Sent, Unknown
from consumers.patience import Patience
from deploy.local.net import until
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.ledgers import LANE, RULES, entry, states
from tests.support.servers import KafkaServer

ERROR: dict[str, object] = {"class": "Deferred", "code": None, "reason": "later"}
AGE = """
    UPDATE pgherald.event SET committed_at = committed_at - %(days)s * interval '1 day' WHERE event_id = ANY (%(ids)s);
    UPDATE pgherald.delivery SET finished_at = finished_at - %(days)s * interval '1 day' WHERE event_id = ANY (%(ids)s)
"""
MAIL = """
[smtp]
host = "127.0.0.1"
sender = "a@example.org"
[[rules]]
name = "welcome"
on = "created"
mail = "welcome"
[ledger]
retention_days = 7
"""


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    migrate(database.dsn)
    with closing(Ledger(database.dsn, "mail", "me")) as opened:
        yield opened


def age(database: Database, lsns: range, days: int) -> None:
    """Let events have been committed, and their deliveries have ended, so long ago."""
    ids = [f"t:1:{lsn:016x}:1" for lsn in lsns]
    database.execute(AGE, {"ids": ids, "days": days})


def end(ledger: Ledger, *outcomes: Outcome) -> None:
    claimed = ledger.claim({LANE: len(outcomes)}, RULES, len(outcomes), 60)
    ledger.mark([Mark(delivery, outcome, "me") for delivery, outcome in zip(claimed, outcomes, strict=True)])


def sweep(ledger: Ledger, days: int = 7) -> int:
    stop = Stop()
    return retention.sweep(ledger, days, Patience(stop, "the ledger"), stop)


def kept(database: Database) -> list[int]:
    """List the LSNs of the events that are still there."""
    return [int(id_.split(":")[2], 16) for (id_,) in database.execute("SELECT event_id FROM pgherald.event ORDER BY 1")]


def test_old_payloads_leave_and_their_facts_stay(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(6)])
    end(ledger, Sent({}), Dead(ERROR), Unknown(ERROR), Sent({}))
    age(database, range(3), 8)
    age(database, range(3, 6), 6)
    assert sweep(ledger) == 3
    assert kept(database) == [3, 4, 5]
    assert states(database) == {0: "sent", 1: "dead", 2: "unknown", 3: "sent", 4: "pending", 5: "pending"}


def test_an_unfinished_delivery_keeps_its_payload_however_old(ledger: Ledger, database: Database) -> None:
    verify = Planned("verify", "verify", "mail:verify")
    ledger.store([entry(1, planned=[verify, Planned("welcome", "welcome", LANE)])])
    end(ledger, Sent({}))
    age(database, range(1, 2), 100)
    assert sweep(ledger) == 0
    with closing(Ledger(database.dsn, "services", "me")) as services:
        services.store([entry(2, planned=[Planned("plans", "storage", "service:storage")])])
    age(database, range(2, 3), 100)
    assert sweep(ledger) == 0
    assert kept(database) == [1, 2]


def test_it_is_the_end_of_a_delivery_that_counts(ledger: Ledger, database: Database) -> None:
    """A dead letter of an old event stays replayable for as long as any other."""
    ledger.store([entry(1)])
    age(database, range(1, 2), 100)
    end(ledger, Dead(ERROR))
    assert sweep(ledger) == 0


def test_a_sweep_passes_what_must_stay(ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "_RETIRED", 2)
    ledger.store([entry(lsn, f"k{lsn}", planned=[Planned("other", "x", "mail:x")]) for lsn in range(5)])
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(5, 10)])
    end(ledger, *[Sent({})] * 5)
    database.execute("UPDATE pgherald.event SET committed_at = '2020-01-01'")  # all of one transaction
    database.execute("UPDATE pgherald.delivery SET finished_at = '2020-01-01' WHERE finished_at IS NOT NULL")
    assert sweep(ledger) == 5
    assert kept(database) == list(range(5))


def test_a_record_from_the_future_leaves_too(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    assert database.execute("SELECT committed_at <= now() FROM pgherald.event") == [(True,)]


def test_one_process_sweeps_at_a_time(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    end(ledger, Sent({}))
    age(database, range(1, 2), 8)
    with closing(database.connect()) as session, session.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_advisory_xact_lock(%s, -3)", (ledgers.LOCK,))
        assert sweep(ledger) == 0
        cursor.execute("COMMIT")
    assert sweep(ledger) == 1


def test_a_payload_does_not_leave_under_a_delivery_that_is_being_stored(ledger: Ledger, database: Database) -> None:
    """The race itself: another consumer has met the event and is about to plan a delivery of it."""
    ledger.store([entry(1)])
    end(ledger, Sent({}))
    age(database, range(1, 2), 8)
    database.execute("""
        CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
        CREATE TRIGGER hold BEFORE INSERT ON pgherald.delivery FOR EACH STATEMENT EXECUTE FUNCTION hold();
    """)
    with closing(Ledger(database.dsn, "services", "me")) as services:
        with closing(database.connect()) as session, session.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(42)")
            planned = [Planned("plans", "storage", "service:storage")]
            storing = threading.Thread(target=services.store, args=([entry(1, planned=planned)],))
            storing.start()
            until(lambda: waiting(database) == 1, 10, "the insert to be held")
            sweeping = threading.Thread(target=sweep, args=(ledger,))
            sweeping.start()
            until(lambda: waiting(database) == 2 or not sweeping.is_alive(), 10, "the sweep to wait for it")
        storing.join(10)
        sweeping.join(10)
        (delivery,) = services.claim({"service:storage": 1}, ["plans"], 1, 60)
        assert delivery.envelope.after == {"id": 1}


def waiting(database: Database) -> int:
    ((count,),) = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'advisory'", (database.name,)
    )
    return int(count)


def test_a_consumer_does_it_by_itself(
    ledger: Ledger, database: Database, kafka: KafkaServer, name: str, tmp_path: Path
) -> None:
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(3)])
    end(ledger, *[Sent({})] * 3)
    age(database, range(2), 8)
    with Deployment(tmp_path / "d", database, kafka, name, more=MAIL, source_dsn=database.dsn) as deployment:
        process = deployment.start("consume", "mail")
        until(lambda: process.said("payloads_removed"), 30, "the old payloads to be removed")
        assert kept(database) == [2]
        assert process.stop() == 0


def test_a_used_link_is_remembered_for_as_long_as_it_could_be_used(
    ledger: Ledger, database: Database, kafka: KafkaServer, name: str, tmp_path: Path
) -> None:
    used = "INSERT INTO pgherald.link_use VALUES (%s, 'verify', '{}', now() - %s * interval '1 day')"
    for days in (6, 8, 19, 21):
        database.execute(used, (str(days), days))
    ledger.store([entry(1)])
    end(ledger, Sent({}))
    age(database, range(1, 2), 8)
    links = '[links]\nbase_url = "https://example.org/verify"\nsecret = "s"\nmax_age = "20d"\n'
    with Deployment(tmp_path / "d", database, kafka, name, more=MAIL + links, source_dsn=database.dsn) as deployment:
        process = deployment.start("consume", "mail")
        until(lambda: process.said("payloads_removed"), 30, "a sweep")
        assert database.execute("SELECT token_hash FROM pgherald.link_use ORDER BY used_at") == [
            ("19",),
            ("8",),
            ("6",),
        ]
        assert process.stop() == 0
