"""The effect of a services rule: tell one service that a user came, changed plans or went."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from cdc.runtime.errors import CallRejected, ConfigInvalid
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery
from consumers.events import kind_of
from consumers.services import plans, signing
from consumers.services.call import Client


class ServiceEffect:
    """Makes the call of a delivery. Any number of threads may call it; `close` when none does any more."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients = {name: Client(name, service) for name, service in settings.services.items()}
        self._signers = {name: _signer(name, settings) for name in settings.services}

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        """Make one call and give the ledger's result. `sending` is called right before it.

        Raises what Client.post raises, and CallRejected when settings no longer give the service or the call.
        """
        if delivery.target not in self._clients:
            raise CallRejected(f"there is no [services.{delivery.target}] any more")
        body = body_of(delivery, self._settings)
        call_id = signing.identity(delivery.event_id, delivery.rule, delivery.target)
        headers = self._signers[delivery.target].headers(call_id, datetime.now(UTC), body)
        # A crash after this: the lease runs out and the call is made again under the same identity, and its receiver
        # drops the repetition.
        sending()
        status = self._clients[delivery.target].post(body, headers)
        return {"status": status, "webhook_id": call_id}

    def close(self) -> None:
        """Close the connections to all services."""
        for client in self._clients.values():
            client.close()


def body_of(delivery: Delivery, settings: Settings) -> bytes:
    """Write the body of a delivery's call: the same bytes in every attempt. Raises CallRejected."""
    previous_plan, plan = plans.of_envelope(delivery.envelope, settings.user.plan)
    kind = kind_of(delivery.envelope, delivery.event_id)
    concerned = plans.calls("created" if kind == "snapshot" else kind, previous_plan, plan, settings.plans)
    call = dict(concerned).get(delivery.target)
    if call is None:
        hint = "[plans] changed since this was planned: replay it when they fit again, or purge it"
        raise CallRejected(f"the user's plans do not concern {delivery.target} any more", hint=hint)
    return msgspec.json.encode(
        {
            "type": call,
            "timestamp": delivery.committed_at.astimezone(UTC),
            "data": {
                "key": delivery.key,
                "service": delivery.target,
                "plan": plan,
                "previous_plan": previous_plan,
            },
        }
    )


def _signer(name: str, settings: Settings) -> signing.Signer:
    try:
        return signing.Signer([secret.get_secret_value() for secret in settings.services[name].secret])
    except ValueError as exc:
        hint = "whsec_ and 24 to 64 random bytes as base64: echo whsec_$(openssl rand -base64 32)"
        raise ConfigInvalid(f"services.{name}.secret is no Standard Webhooks secret", hint=hint) from exc
