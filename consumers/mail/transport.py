"""Mails of any number of threads to one relay, over few connections, and what a loss in the middle of one means."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from cdc.runtime.errors import DependencyDown
from cdc.runtime.sections_mail import Smtp
from consumers.losses import Losses
from consumers.mail import connection, session
from consumers.mail.connection import Connection
from consumers.mail.message import Mail
from consumers.mail.pool import Pool, Rate
from consumers.mail.reply import DOT, Reply
from consumers.mail.session import Timeouts

USUAL = Timeouts()
#: Someone waits in front of a preflight.
_IMPATIENT = Timeouts(connect_s=10.0, command_s=10.0)


class Transport:
    """Sends mails over at most `smtp.connections` connections, and at most at `smtp.rate`. Any thread may send.

    Raises ConfigInvalid when it is made with a `ca_file` that can't be read.
    """

    def __init__(self, smtp: Smtp, timeouts: Timeouts = USUAL) -> None:
        self._pool = Pool(smtp.connections, partial(Connection, smtp, session.context(smtp), timeouts), timeouts.turn_s)
        self._rate = Rate(smtp.rate) if smtp.rate else None
        self._losses = Losses()
        self._closed = threading.Event()
        threading.Thread(target=self._tend, name="smtp-tend", daemon=True).start()

    def send(self, mail: Mail, sending: Callable[[], None]) -> str:
        """Send a mail and give the relay's answer, in one line and without addresses.

        `sending` is called when all but the final dot was transmitted, and again at the last moment; if it raises, the
        dot is not written.
        Raises DependencyDown, NotYet, Busy, Deferred or MailRejected: the mail was not accepted. Raises ConnectionLost:
        the dot may have left and no answer came.
        """
        if self._rate:
            self._rate.wait()
        try:
            reply = self._transact(mail, sending)
        except DependencyDown as exc:
            if not _is_in_a_mail(exc):
                raise
            raise self._losses.judge(exc, mail.message_id) from exc.__cause__
        self._losses.taken(mail.message_id)
        return str(reply)

    def close(self) -> None:
        """End all connections. What is being sent fails: before its dot as not sent, after it as ConnectionLost."""
        self._closed.set()
        if self._rate:
            self._rate.close()
        self._pool.close()

    def _transact(self, mail: Mail, sending: Callable[[], None]) -> Reply:
        """Send over any connection; where the relay has had enough of a used one, over another, and a new one at last.

        It says so at MAIL, in words (421) or by hanging up: nothing was sent.
        """
        while True:
            with self._pool.borrow() as borrowed:
                is_used = borrowed.is_used
                try:
                    return borrowed.transact(mail, sending)
                except DependencyDown as exc:
                    if not is_used or exc.fields.get("step") != "MAIL":
                        raise

    def _tend(self) -> None:
        """Take leave of connections that nobody needs: relays count them, and end them with a 421 in their log."""
        while not self._closed.wait(connection.REST_MAX_S / 4):
            self._pool.drop_old()


def probe(smtp: Smtp) -> None:
    """Connect, encrypt, log in, and send nothing. Raises DependencyDown with what mends it, or ConfigInvalid."""
    opened = Connection(smtp, session.context(smtp), _IMPATIENT)
    try:
        opened.ask()
    finally:
        opened.quit()


def _is_in_a_mail(exc: DependencyDown) -> bool:
    """Tell whether it happened at a mail, which may be why: the relay hung up, fell silent, or refused all."""
    return exc.fields.get("step") in ("MAIL", "RCPT", "DATA", DOT)
