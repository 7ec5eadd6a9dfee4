"""The effect of a mail rule: render, compose, send one delivery's mail."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from cdc.runtime.errors import ConfigInvalid, MailRejected, RetryableError, ServiceError
from cdc.runtime.log import get_logger
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery
from consumers.mail import links, message, suppression
from consumers.mail.message import Address, Mail, Rendered
from consumers.mail.render import Renderer
from consumers.mail.reply import names_nobody
from consumers.mail.suppression import Suppression
from consumers.mail.transport import Transport
from consumers.mail.turns import Turns
from consumers.outcome import NotYet, SkipDelivery
from consumers.rules import SeenUser, names

_log = get_logger("mail")


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
        self._suppression = Suppression(settings.ledger_dsn)
        self._optional = {rule.name for rule in settings.rules if not rule.essential}

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        """Send one mail and give the ledger's result. `sending` is called right before the final dot.

        Raises TemplateInvalid, SkipDelivery, NotYet, and what Transport.send and message.compose raise.
        """
        seen = names(delivery.envelope, self._settings.user, delivery.event_id, delivery.key)
        user = cast(SeenUser, seen["user"])
        to = message.address(user.email)
        self._admit(to, delivery.rule)
        seen |= links.seen(self._settings.links, user.key, user.email)
        if unsubscribe_url := self._unsubscribe_url(to, delivery.rule):
            seen["unsubscribe_url"] = unsubscribe_url
        rendered = self._renderer.render(delivery.target, user.locale, seen)
        mail = self._compose(delivery, rendered, to, user.name, unsubscribe_url)
        reply = self._send(mail, to, delivery.id, sending)
        return {"message_id": mail.message_id, "reply": reply, "template": rendered.template}

    def close(self) -> None:
        """End the connections to the relay and the ledger."""
        self._transport.close()
        self._suppression.close()

    def _admit(self, to: Address, rule: str) -> None:
        """Look whether mail may be sent to an address at all, and whether now."""
        try:
            suppressed = self._suppression.holds(suppression.address_hash(to), essential=rule not in self._optional)
        except RetryableError as exc:
            raise NotYet("the suppression list can't be read now", retry_after_s=1.0) from exc
        if suppressed:
            raise SkipDelivery("suppressed")
        self._turns.take(to.domain)

    def _unsubscribe_url(self, to: Address, rule: str) -> str:
        if self._settings.links is None or rule not in self._optional:
            return ""
        return links.unsubscribe_url(self._settings.links, suppression.address_hash(to))

    def _compose(
        self, delivery: Delivery, rendered: Rendered, to: Address, name: str | None, unsubscribe_url: str
    ) -> Mail:
        identity = message.message_id(delivery.event_id, delivery.rule, delivery.target, self._sender.domain)
        return message.compose(
            rendered,
            self._sender,
            to,
            name,
            message_id=identity,
            bounce=message.bounce_id(delivery.id, identity),
            unsubscribe_url=unsubscribe_url,
            now=datetime.now(UTC),
        )

    def _send(self, mail: Mail, to: Address, delivery: int, sending: Callable[[], None]) -> str:
        try:
            return self._transport.send(mail, sending)
        except MailRejected as exc:
            if names_nobody(exc):
                # A crash before: the delivery is tried again, and refused again.
                self._suppress(to, f"delivery {delivery}: {exc.fields['code']}")
            raise

    def _suppress(self, to: Address, source: str) -> None:
        try:
            self._suppression.add([suppression.address_hash(to)], suppression.BOUNCE, source)
        except ServiceError as exc:
            # The relay's answer is worth more than the list: the next mail to this address is refused too.
            _log.warning("bounce_not_recorded", source=source, why=str(exc))
