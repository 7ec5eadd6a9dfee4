"""Mails from the ledger to a relay: what holds up whom, and what becomes of users that no mail can be sent to."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email import message_from_string
from email.utils import getaddresses

import pytest

from cdc.runtime.lifecycle import Stop
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.operations import Filter, Operations
from consumers.operator import Operator
from consumers.process import consume
from deploy.local.net import until
from tests.support.database import Database
from tests.support.mailer import mailing, registered, settings
from tests.support.script import Fault
from tests.support.smtp import Relay

#: What strangers register with -> the reason that the ledger keeps.
HOSTILE: dict[tuple[str | None, str], str] = {
    ("ada@example.org\r\nBcc: eve@example.org", "Ada"): "header_unsafe",
    ("ada@example.org\nDATA", "Ada"): "header_unsafe",
    ("ada\0@example.org", "Ada"): "header_unsafe",
    ("=?UTF-8?Q?ada=0A?=@example.org", "Ada"): "header_unsafe",
    ('"ada lovelace"@example.org', "Ada"): "address_invalid",
    ("ada@example.org, eve@example.org", "Ada"): "address_invalid",
    ("a" * 308 + "@example.org", "Ada"): "address_invalid",
    ("ada@" + "b" * 64 + ".org", "Ada"): "address_invalid",
    ("ada", "Ada"): "address_invalid",
    (None, "Ada"): "no_address",
    (" ", "Ada"): "no_address",
    ("ada@example.org", "Ada\r\nBcc: eve@example.org"): "header_unsafe",
    ("ada@example.org", "Ada\0"): "header_unsafe",
    ("ada@example.org", "=?UTF-8?Q?=0A?=Bcc: eve@example.org"): "header_unsafe",
}
#: Unusual, and good.
GOOD = {
    ("ada@bücher.example", "Ада"): "ada@xn--bcher-kva.example",
    ("dörte@example.org", "محمد بن موسى"): "dörte@example.org",
    ("o'brien+x@example.org", "Ada, <eve@example.org>"): "o'brien+x@example.org",
    ("a" * 64 + "@example.org", "👩🏽‍💻" * 60): "a" * 64 + "@example.org",
}


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    migrate(database.dsn)
    with closing(Ledger(database.dsn, "mail", "test")) as opened:
        yield opened


def until_ended(ledger: Ledger) -> None:
    until(lambda: ledger.unfinished() == 0, 30, "all deliveries to end", every_s=0.01)


def test_a_domain_that_waits_for_its_rate_holds_up_no_other_and_spends_no_attempt(
    database: Database, relay: Relay, ledger: Ledger
) -> None:
    given = settings(database, relay, smtp={"rates": {"slow.example": "4/s"}})
    ledger.store([registered(lsn, f"user{lsn}@slow.example") for lsn in range(1, 9)])
    ledger.store([registered(lsn, f"user{lsn}@example.org") for lsn in range(11, 41)])
    with mailing(given):
        until_ended(ledger)
    slow, others = ([mail.at for mail in relay.accepted if host in mail.recipients[0]] for host in ("slow", "org"))
    assert (len(slow), len(others)) == (8, 30)
    assert max(others) < sorted(slow)[5]
    assert max(slow) - min(slow) > (8 - 1 - 4) / 4
    assert database.execute("SELECT DISTINCT state, attempt, error FROM pgherald.delivery") == [("sent", 1, None)]


def test_hostile_users_are_dead_letters_with_a_reason_and_the_next_mails_flow(
    database: Database, relay: Relay, ledger: Ledger
) -> None:
    users = [*HOSTILE, *GOOD]
    ledger.store([registered(lsn, email, name) for lsn, (email, name) in enumerate(users, 1)])
    with mailing(settings(database, relay)):
        until_ended(ledger)
        dead = database.execute(
            "SELECT position_lsn - '0/0'::pg_lsn, error->>'code', attempt FROM pgherald.delivery WHERE state = 'dead'"
        )
        assert {users[int(lsn) - 1]: (code, attempt) for lsn, code, attempt in dead} == {
            user: (code, 1) for user, code in HOSTILE.items()
        }
        assert sorted(mail.recipients for mail in relay.accepted) == sorted((email,) for email in GOOD.values())
        for mail in relay.accepted:
            headers = message_from_string(mail.content.decode())
            assert [address for _, address in getaddresses(headers.get_all("To", []))] == list(mail.recipients)
            assert "Bcc" not in headers
        with closing(Operations(database.dsn)) as operations, closing(Operator(database.dsn, "test")) as operator:
            pages = operations.pages(Filter(states=["dead"]), last=2**62)
            assert operator.replay(pages, {}, ["dead"], None) == len(HOSTILE)
        until_ended(ledger)
    assert len(relay.accepted) == len(GOOD)


def test_a_stop_cuts_off_what_hangs_and_spends_no_attempt_of_what_was_not_sent(
    database: Database, relay: Relay, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.process.GRACE_S", 0.2)
    monkeypatch.setattr("consumers.deliver.GRACE_S", 0.2)
    relay.script.always("rcpt ada@example.org", Fault.HANG)
    relay.script.always("dot eve@example.org", Fault.HANG)
    ledger.store([registered(1, "ada@example.org"), registered(2, "eve@example.org")])
    stop = Stop()
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(consume, settings(database, relay), "mail", stop)
        hang = "SELECT count(*) FROM pgherald.delivery WHERE state IN ('claimed', 'sending')"
        until(lambda: relay.accepted and database.execute(hang) == [(2,)], 20, "both to hang")
        stop.request()
        ended.result(20)
    assert database.execute("SELECT state, attempt, leased_by FROM pgherald.delivery ORDER BY id") == [
        ("pending", 0, None),
        ("unknown", 1, None),
    ]
    assert database.execute("SELECT count(*) FROM pgherald.lane WHERE failures > 0 AND reason LIKE '%RCPT%'") == [(0,)]


def test_a_bounce_comes_back_to_an_address_that_names_its_delivery(
    database: Database, relay: Relay, ledger: Ledger
) -> None:
    ledger.store([registered(1, "ada@example.org")])
    with mailing(settings(database, relay, smtp={"envelope_from": "bounces+{delivery}@example.org"})):
        until_ended(ledger)
    ((number, identity),) = database.execute("SELECT id, result->>'message_id' FROM pgherald.delivery")
    assert relay.accepted[0].sender == f"bounces+{number}-{identity[1:11]}@example.org"
    assert time.time() - relay.accepted[0].at < 60
