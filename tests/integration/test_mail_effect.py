"""One delivery's mail, from the event to the relay."""

from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from typing import Any

import pytest

from cdc.contract.envelope import Envelope as Change
from cdc.contract.envelope import Row, Source
from cdc.runtime.errors import ConfigInvalid, MailRejected
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery
from consumers.mail.effect import MailEffect
from consumers.migrations import migrate
from tests.support.database import Database
from tests.support.mailer import TEMPLATES
from tests.support.smtp import Relay


class Permission:
    """The ledger's answer to `sending`, and whether it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1


def delivery(target: str, **row: Any) -> Delivery:
    after: Row = {"id": "a", "username": "Ada", "email": "ada@example.org", "plan": "free"} | row
    now = datetime.now(UTC)
    change = Change("c", Source("app", int(now.timestamp() * 1000), "public", "User"), None, after)
    lane, event_id = f"mail:{target}", "app:1:00000000000000ff:3"
    return Delivery(1, "mail", event_id, target, target, lane, '{"id":"a"}', 1, 0, now, now, change)


@pytest.fixture
def effect(relay: Relay, database: Database) -> Iterator[MailEffect]:
    migrate(database.dsn)
    made = MailEffect(
        Settings.model_validate(
            {
                "source": {"name": "app", "dsn": database.dsn, "tables": [{"name": 'public."User"'}]},
                "kafka": {"bootstrap_servers": "127.0.0.1:9092"},
                "templates": {"path": str(TEMPLATES)},
                "smtp": {
                    "host": relay.host,
                    "port": relay.port,
                    "security": "none",
                    "sender": "App <app@example.org>",
                },
                "links": {"base_url": "https://app.example.org/verify", "secret": "s"},
                "user": {"email": "email", "name": "username", "plan": "plan"},
            }
        )
    )
    yield made
    made.close()


def test_a_delivery_becomes_a_mail_that_is_the_same_delivery_in_every_attempt(relay: Relay, effect: MailEffect) -> None:
    results = [effect(delivery("verify"), Permission()) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0]["reply"] == "250 2.0.0 kept"
    assert len(str(results[0]["template"])) == 12
    for accepted in relay.accepted:
        read = message_from_bytes(accepted.content)
        assert read["Message-ID"] == results[0]["message_id"]
        assert read["To"] == "Ada <ada@example.org>"
        assert b"https://app.example.org/verify?token=" in accepted.content.replace(b"=\r\n", b"").replace(b"=3D", b"=")


@pytest.mark.parametrize(
    ("target", "row", "code"),
    [
        ("welcome", {"email": None}, "no_address"),
        ("welcome", {"email": "not an address"}, "address_invalid"),
        ("welcome", {"username": "=?UTF-8?Q?=0A?=Bcc: eve@example.org"}, "header_unsafe"),
        ("welcome", {"username": "Ada\r\nBcc: eve@example.org"}, "header_unsafe"),
        ("welcome", {"email": "ada@example.org\r\nDATA"}, "header_unsafe"),
    ],
)
def test_a_mail_that_must_not_be_sent_never_reaches_the_relay(
    relay: Relay, effect: MailEffect, target: str, row: Row, code: str
) -> None:
    permission = Permission()
    with pytest.raises(MailRejected) as refused:
        effect(delivery(target, **row), permission)
    assert refused.value.fields["code"] == code
    assert (relay.connections, permission.asked) == (0, 0)


def test_without_a_relay_there_is_no_mail_effect(relay: Relay, effect: MailEffect) -> None:
    with pytest.raises(ConfigInvalid, match=r"\[smtp\]"):
        MailEffect(effect._settings.model_copy(update={"smtp": None}))
