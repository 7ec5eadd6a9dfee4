"""Standard Webhooks signatures, checked with the receivers' library."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from consumers.services.signing import Signer, identity

OLD, NEW, OTHER = ("whsec_" + base64.b64encode(letter * 24).decode() for letter in (b"o", b"n", b"x"))
BODY = json.dumps({"type": "subscribe", "data": {"plan": "großartig"}}, ensure_ascii=False).encode()


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_a_receiver_that_knows_any_of_the_secrets_accepts(secret: str) -> None:
    headers = Signer([NEW, OLD]).headers("msg_1", datetime.now(UTC), BODY)
    assert Webhook(secret).verify(BODY, headers)["data"] == {"plan": "großartig"}
    assert len(headers["webhook-signature"].split(" ")) == 2


@pytest.mark.parametrize(
    ("secret", "body", "age"),
    [(OTHER, BODY, timedelta()), (NEW, BODY + b" ", timedelta()), (NEW, BODY, timedelta(minutes=6))],
)
def test_another_secret_another_body_or_an_old_call_is_refused(secret: str, body: bytes, age: timedelta) -> None:
    headers = Signer([NEW]).headers("msg_1", datetime.now(UTC) - age, BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)


def test_the_identity_stays_and_the_timestamp_and_signature_are_of_the_attempt() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    first, second = (Signer([NEW]).headers("msg_1", now + timedelta(seconds=late), BODY) for late in (0, 60))
    assert first["webhook-id"] == second["webhook-id"] == second["idempotency-key"] == "msg_1"
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 60
    assert first["webhook-signature"] != second["webhook-signature"]


def test_identities_differ_by_event_rule_and_service() -> None:
    parts = ("app:1:ff:3", "plans", "storage")
    others = [("app:1:ff:4", "plans", "storage"), ("app:1:ff:3", "plan", "sstorage"), ("app:1:ff:3", "plans", "mail")]
    assert identity(*parts) == identity(*parts)
    assert identity(*parts).startswith("msg_")
    assert len({identity(*parts), *(identity(*other) for other in others)}) == 4


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64!", "whsec_====", "whsec_a"])
def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError):
        Signer([secret])
