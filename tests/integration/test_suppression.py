"""Who gets no mail: how an address comes on the list, what it still gets, and how an operator changes that."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cdc.runtime.errors import FatalError
from consumers.breaker import ALIKE_MAX
from consumers.ledger import Ledger
from consumers.mail.links import unsubscribing
from consumers.mail.message import address
from consumers.mail.operate import suppression as command
from consumers.mail.suppression import Suppression, address_hash
from consumers.migrations import migrate
from deploy.local.net import until
from tests.support.database import Database
from tests.support.mailer import mailing, registered, settings
from tests.support.smtp import Relay

LINKS = {"base_url": "https://app.example.org/account/verify", "secret": ["new", "old"]}
RULES = [
    {"name": "welcome", "on": "created", "mail": "welcome"},
    {"name": "news", "on": "created", "mail": "welcome", "essential": False},
]
ADA = address_hash(address("ada@example.org"))
Run = Callable[..., Result]


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    migrate(database.dsn)
    with closing(Ledger(database.dsn, "mail", "test")) as opened:
        yield opened


@pytest.fixture
def listed(database: Database, ledger: Ledger) -> Iterator[Suppression]:
    with closing(Suppression(ledger._dsn)) as opened:
        yield opened


def became(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT rule, state, coalesce(error->>'code', error->>'reason') FROM pgherald.delivery ORDER BY id"
    )


def deliver(database: Database, relay: Relay, ledger: Ledger, **given: Any) -> None:
    with mailing(settings(database, relay, **given)):
        until(lambda: ledger.unfinished() == 0, 30, "all deliveries to end", every_s=0.01)


def test_an_address_that_is_no_mailbox_gets_one_mail_and_no_more(
    database: Database, relay: Relay, ledger: Ledger, listed: Suppression
) -> None:
    relay.script.always("rcpt ada@example.org", "550 5.1.1 <ada@example.org> is unknown")
    relay.script.always("dot bob@example.org", "550 5.7.1 looks like spam")
    for lsn, email in enumerate(("ada@example.org", "Ada@EXAMPLE.org", "bob@example.org", "bob@example.org"), 1):
        ledger.store([registered(lsn, email)])
        deliver(database, relay, ledger)
    assert became(database) == [
        ("welcome", "dead", "550 5.1.1"),
        ("welcome", "skipped", "suppressed"),
        ("welcome", "dead", "550 5.7.1"),
        ("welcome", "dead", "550 5.7.1"),
    ]
    (row,) = listed.find()
    assert (row["address_hash"], row["reason"], row["source"]) == (ADA, "bounce", "delivery 1: 550 5.1.1")


@pytest.mark.parametrize("refusal", ["550 5.1.1 no such user", "550 no"])
def test_a_relay_that_knows_no_mailbox_any_more_stops_the_lane_before_everyone_is_on_the_list(
    database: Database, relay: Relay, ledger: Ledger, listed: Suppression, refusal: str
) -> None:
    relay.script.always("rcpt", refusal)
    ledger.store([registered(lsn, f"u{lsn}@example.org") for lsn in range(1, 101)])
    with mailing(settings(database, relay)):
        until(lambda: ledger.paused_lanes(), 30, "the lane to stop", every_s=0.01)
    assert ALIKE_MAX <= len([state for _, state, _ in became(database) if state == "dead"]) < 2 * ALIKE_MAX
    assert len(listed.find()) < 2 * ALIKE_MAX


@pytest.mark.parametrize(
    ("reason", "states"),
    [
        ("unsubscribe", {"welcome": "sent", "news": "skipped"}),
        ("bounce", {"welcome": "skipped", "news": "skipped"}),
        ("complaint", {"welcome": "skipped", "news": "skipped"}),
    ],
)
def test_an_essential_mail_reaches_who_unsubscribed_and_nobody_whom_it_would_only_harm(
    database: Database, relay: Relay, ledger: Ledger, listed: Suppression, reason: str, states: dict[str, str]
) -> None:
    listed.add([ADA], reason, "test")
    ledger.store([registered(lsn, "ada@example.org", rule=rule) for lsn, rule in enumerate(states, 1)])
    deliver(database, relay, ledger, links=LINKS, rules=RULES)
    assert {rule: state for rule, state, _ in became(database)} == states
    assert len(relay.accepted) == list(states.values()).count("sent")


def test_one_may_unsubscribe_with_one_click_from_what_is_not_essential_and_from_nothing_else(
    database: Database, relay: Relay, ledger: Ledger
) -> None:
    ledger.store([registered(lsn, "ada@example.org", rule=rule) for lsn, rule in enumerate(("welcome", "news"), 1)])
    deliver(database, relay, ledger, links=LINKS, rules=RULES, smtp={"connections": 1})
    welcome, news = (message_from_bytes(mail.content) for mail in relay.accepted)
    assert "List-Unsubscribe" not in welcome
    assert "List-Unsubscribe-Post" not in welcome
    assert news["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    base, _, token = news["List-Unsubscribe"].strip("<>").partition("?token=")
    assert base == "https://app.example.org/account/unsubscribe"
    assert unsubscribing(token, ["new", "old"]) == ADA
    assert "ada" not in news["List-Unsubscribe"]


def test_without_its_table_the_list_is_not_taken_for_an_empty_one(database: Database) -> None:
    with closing(Suppression(database.dsn)) as listed, pytest.raises(FatalError, match="pgherald ledger migrate"):
        listed.holds(ADA, essential=True)


# The command


@pytest.fixture
def run(database: Database, ledger: Ledger, tmp_path: Path) -> Run:
    path = tmp_path / "pgherald.toml"
    path.write_text(
        f"[source]\nname = 't'\ndsn = '{database.dsn}'\n[[source.tables]]\nname = 'users'\n"
        "[kafka]\nbootstrap_servers = '127.0.0.1:1'\n"
    )

    def run(*arguments: str, **given: Any) -> Result:
        return CliRunner().invoke(command, [*arguments, "--config", str(path)], **given)

    return run


def test_an_operator_sees_hashes_adds_from_a_list_and_takes_off_what_was_wrong(run: Run, database: Database) -> None:
    added = run("add", "--reason", "complaint", "-", input="ada@example.org\n\nADA@example.org\nbob@example.org\n")
    assert (added.exit_code, added.output) == (0, "2 were added, 0 were on the list\n")
    shown = run("list", "--json")
    assert "@" not in shown.stdout.replace(json.loads(shown.stdout)[0]["source"], "")
    assert {row["address_hash"] for row in json.loads(shown.stdout)} > {ADA}
    assert len(json.loads(run("list", "--json", "ada@example.org").stdout)) == 1
    assert run("remove", "--reason", "bounce", "--since", "1h").output == "0 were removed\n"
    assert run("remove", "ada@example.org").output == "1 were removed\n"
    assert len(json.loads(run("list", "--json").stdout)) == 1
    noted = database.execute("SELECT command, count, filter FROM pgherald.operation ORDER BY id")
    assert [(name, count) for name, count, _ in noted] == [
        ("suppression add", 2),
        ("suppression remove", 0),
        ("suppression remove", 1),
    ]
    assert "@" not in json.dumps([asked for _, _, asked in noted])


def test_a_bounce_is_found_by_the_name_that_its_mail_went_out_with(
    run: Run, database: Database, relay: Relay, ledger: Ledger
) -> None:
    ledger.store([registered(1, "ada@example.org"), registered(2, "bob@example.org")])
    deliver(database, relay, ledger, smtp={"envelope_from": "bounces+{delivery}@example.org"})
    (bounced,) = (mail.sender for mail in relay.mails_to("ada@example.org"))
    name = bounced.removeprefix("bounces+").removesuffix("@example.org")
    assert run("add", "--bounce", name).output == "1 were added, 0 were on the list\n"
    assert [row["address_hash"] for row in json.loads(run("list", "--json").stdout)] == [ADA]
    for made_up in (f"{name[:-1]}{'0' if name[-1] != '0' else '1'}", name.partition("-")[0], "x", "99-0123456789"):
        assert run("add", "--bounce", made_up).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add", "--reason", "bounce"], "say whom"),
        (["add", "ada@example.org"], "say why"),
        (["add", "--reason", "bounce", "ada"], "address 1: the user's address is no mail address"),
        (["remove"], "say which"),
    ],
)
def test_a_command_that_can_not_be_meant_says_what_is_missing(run: Run, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.output
