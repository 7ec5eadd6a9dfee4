"""Standard Webhooks signatures, and the identity of a call. Pure: the clock is passed in.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook

from consumers.delivery import digest


def identity(event_id: str, rule: str, target: str) -> str:
    """Name a delivery's call: the same in every attempt, so that a receiver can drop a repetition."""
    return f"msg_{digest(event_id, rule, target)}"


class Signer:
    """Signs with every secret of a service, newest first: a receiver that knows one of them accepts (key rotation).

    Raises ValueError when a secret is not the base64 of a key.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._webhooks = [Webhook(_key(secret)) for secret in secrets]

    def headers(self, call_id: str, now: datetime, body: bytes) -> dict[str, str]:
        """Sign a body. `now` is aware and in UTC: the library would take any other clock's hands for UTC's."""
        signatures = [webhook.sign(call_id, now, body.decode()) for webhook in self._webhooks]
        return {
            "webhook-id": call_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
            "idempotency-key": call_id,
        }


def _key(secret: str) -> bytes:
    """Read a secret as it is handed out: `whsec_` and base64. The library would pass over what is no base64."""
    text = secret.removeprefix("whsec_").rstrip("=")
    if not text:
        raise ValueError("empty")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
