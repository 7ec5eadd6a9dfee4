"""The effect of a mail rule: render, compose, send one delivery's mail."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery
from consumers.mail import links, message
from consumers.mail.render import Renderer
from consumers.mail.transport import Transport
from consumers.mail.turns import Turns
from consumers.rules import SeenUser, names


class MailEffect:
    """Sends the mail of a delivery. Any number of threads may call it; `close` when none does any more."""

    def __init__(self, settings: Settings) -> None:
        if settings.smtp is None:
            raise ConfigInvalid("there is no [smtp]", hint="A rule sends mail: smtp.host and smtp.sender are needed")
        self._settings = settings
        self._sender = message.sender(settings.smtp)
        self._renderer = Renderer(settings.templates.path)
        self._transport = Transport(settings.smtp)
        self._turns = Turns(settings.smtp.rates)

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        """Send one mail and give the ledger's result. `sending` is called right before the final dot.

        Raises TemplateInvalid, NotYet, and what Transport.send and message.compose raise.
        """
        seen = names(delivery.envelope, self._settings.user, delivery.event_id, delivery.key)
        user = cast(SeenUser, seen["user"])
        to = message.address(user.email)
        self._turns.take(to.domain)
        seen |= links.seen(self._settings.links, user.key, user.email)
        rendered = self._renderer.render(delivery.target, user.locale, seen)
        identity = message.message_id(delivery.event_id, delivery.rule, delivery.target, self._sender.domain)
        mail = message.compose(
            rendered,
            self._sender,
            to,
            user.name,
            message_id=identity,
            bounce=message.bounce_id(delivery.id, identity),
            now=datetime.now(UTC),
        )
        reply = self._transport.send(mail, sending)
        return {"message_id": mail.message_id, "reply": reply, "template": rendered.template}

    def close(self) -> None:
        """End the connections to the relay."""
        self._transport.close()
