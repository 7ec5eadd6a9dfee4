"""Mails of any number of threads to one relay, over few connections, and what a loss in the middle of one means."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from cdc.runtime.errors import Deferred, DependencyDown
from cdc.runtime.sections_mail import Smtp
from consumers.losses import Losses
from consumers.mail import connection, session
from consumers.mail.connection import Connection
from consumers.mail.message import Mail
from consumers.mail.pool import Pool, Rate
from consumers.mail.session import Timeouts

USUAL = Timeouts()
#: Someone waits in front of a preflight.
_IMPATIENT = Timeouts(connect_s=10.0, command_s=10.0)


class Transport:
    """Sends mails over at most `smtp.connections` connections, and at most at `smtp.rate`. Any thread may send.

    Raises ConfigInvalid when it is made with a `ca_file` that can't be read.
    """

    def __init__(self, smtp: Smtp, timeouts: Timeouts = USUAL) -> None:
        self._pool = Pool(smtp.connections, partial(Connection, smtp, session.context(smtp), timeouts))
        self._rate = Rate(smtp.rate) if smtp.rate else None
        self._losses = Losses()
        self._closed = threading.Event()
        threading.Thread(target=self._tend, name="smtp-tend", daemon=True).start()

    def send(self, mail: Mail, sending: Callable[[], None]) -> str:
        """Send a mail and give the relay's answer, in one line and without addresses.

        `sending` is called when all but the final dot was transmitted, and again at the last moment; if it raises, the
        dot is not written.
        Raises DependencyDown, Deferred or MailRejected: the mail was not accepted. Raises ConnectionLost: the dot may
        have left and no answer came.
        """
        if self._rate:
            self._rate.wait()
        try:
            with self._pool.borrow() as borrowed:
                reply = borrowed.transact(mail, sending)
        except DependencyDown as exc:
            if _is_lost_in_a_mail(exc) and self._losses.is_its_own(mail.message_id):
                # It counts as this mail's attempt then: the lane would stop for it again and again, and forever.
                raise Deferred(f"at this mail, and not at others: {exc.message}", step=exc.fields["step"]) from exc
            raise
        self._losses.taken(mail.message_id)
        return str(reply)

    def close(self) -> None:
        """End all connections. What is being sent fails: before its dot as not sent, after it as ConnectionLost."""
        self._closed.set()
        if self._rate:
            self._rate.close()
        self._pool.close()

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


def _is_lost_in_a_mail(exc: DependencyDown) -> bool:
    """Tell whether the relay hung up, fell silent or spoke nonsense in a mail, rather than refuse it to everyone."""
    return "code" not in exc.fields and exc.fields.get("step") in ("MAIL", "RCPT", "DATA")
