"""SMTP: the only owner of smtplib. Connections to one relay, and the one step that matters.

A mail's point of no return is its final dot (RFC 5321 4.1.1.4): before it nothing was sent, whatever is lost; after it
only the relay knows, until it answers. Errors are classified here and in `reply`; none holds an address or the relay's
text.
"""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from cdc.runtime.errors import ConfigInvalid, ConnectionLost, Deferred, DependencyDown, MailRejected
from cdc.runtime.sections_mail import Smtp
from consumers.losses import Losses
from consumers.mail.message import Mail
from consumers.mail.pool import Pool, Rate
from consumers.mail.reply import DOT, NO_CODE, Reply, refusal


class Timeouts(NamedTuple):
    """How long to wait for the relay, in seconds, each time."""

    connect_s: float = 30.0  #: TCP, TLS, and the greeting, before which relays look up who we are
    command_s: float = 300.0  #: RFC 5321 4.5.3.2.2 to .5
    dot_s: float = 600.0  #: RFC 5321 4.5.3.2.6; giving up earlier makes a slow yes a duplicate


USUAL = Timeouts()
#: Someone waits in front of a preflight.
_IMPATIENT = Timeouts(connect_s=10.0, command_s=10.0)

#: A connection that rested this long is asked (RSET) before it is used again; after this much longer it is not used.
_ASK_AFTER_S, _REST_MAX_S = 5.0, 60.0
_RESET_MAX_S = 5.0
#: Relays close a connection after some mails, often a hundred, with 421: we are first.
_MAILS_MAX = 100

#: What mends a step that failed without a word from the relay.
_HINTS = {
    "connect": "See smtp.host, smtp.port and smtp.security, and whether the relay runs",
    "AUTH": "See smtp.username and smtp.password_file, and whether the relay offers AUTH",
}


class Transport:
    """Sends mails over at most `smtp.connections` connections, and at most at `smtp.rate`. Any thread may send.

    Raises ConfigInvalid when it is made with a `ca_file` that can't be read.
    """

    def __init__(self, smtp: Smtp, timeouts: Timeouts = USUAL) -> None:
        self._pool = Pool(smtp.connections, partial(Connection, smtp, _tls(smtp), timeouts))
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
            with self._pool.borrow() as connection:
                reply = connection.transact(mail, sending)
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
        while not self._closed.wait(_REST_MAX_S / 4):
            self._pool.drop_old()


def probe(smtp: Smtp) -> None:
    """Connect, encrypt, log in, and send nothing. Raises DependencyDown with what mends it, or ConfigInvalid."""
    connection = Connection(smtp, _tls(smtp), _IMPATIENT)
    try:
        connection.expect("NOOP", lambda session: session.noop())
    finally:
        connection.quit()


class Connection:
    """A connection that is encrypted and authenticated as settings say. For one thread, but for `cut`.

    Raises DependencyDown when it can't be had.
    """

    def __init__(self, smtp: Smtp, tls: ssl.SSLContext | None, timeouts: Timeouts) -> None:
        self.in_order = True
        self._timeouts = timeouts
        self._mails = 0
        self._refused = False  # the last mail was: its transaction is still open
        with _step("connect", f"the relay {smtp.host}:{smtp.port}"):
            self._session = _dial(smtp, tls, timeouts.connect_s)
        try:
            self._begin(smtp, tls)
        except BaseException:
            self.drop()
            raise
        self._used_at = time.monotonic()

    def transact(self, mail: Mail, sending: Callable[[], None]) -> Reply:
        """Transmit one mail to one recipient. See Transport.send."""
        self.in_order = False
        try:
            reply = self._transact(mail, sending)
        except (Deferred, MailRejected):
            self._refused = True
            self._rest()
            raise
        self._refused = False
        self._rest()
        return reply

    def expect(
        self, step: str, ask: Callable[[smtplib.SMTP], tuple[int, bytes]], codes: range = range(200, 300)
    ) -> None:
        """Say a command and wait for its answer. Raises what `refusal` makes of another answer, or DependencyDown."""
        with _step(step):
            reply = _reply(ask(self._session))
        if reply.code not in codes:
            raise refusal(reply, step)

    def is_fit(self) -> bool:
        """Tell whether the relay has neither hung up nor spoken meanwhile, and after a while whether it answers."""
        if self.is_old() or self._has_input():
            return False
        # A refused mail leaves its transaction open: another MAIL would be out of order (RFC 5321 4.1.4).
        return self._reset() if self._refused or self._rested_s() > _ASK_AFTER_S else True

    def is_old(self) -> bool:
        """Tell whether it rested for so long that it is not worth a question."""
        return self._rested_s() > _REST_MAX_S

    def drop(self) -> None:
        """Close the socket and say nothing: in the middle of a mail a QUIT would be a line of it."""
        self._session.close()

    def cut(self) -> None:
        """Shut the socket down, which wakes the thread that waits for the relay."""
        sock = self._session.sock  # read once: that thread may be closing it
        with suppress(OSError):
            if sock:
                sock.shutdown(socket.SHUT_RDWR)

    def quit(self) -> None:
        """Take leave, but do not wait long for the answer."""
        with suppress(OSError):
            self._wait_at_most(1.0)
            self._session.quit()
        self._session.close()

    def _begin(self, smtp: Smtp, tls: ssl.SSLContext | None) -> None:
        if self._session.sock:
            # Else the final dot waits until the text before it is acknowledged: 40 ms on Linux (Nagle, RFC 896).
            self._session.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # smtplib would ask DNS for our name, which can take seconds; our address will do (RFC 5321 4.1.3).
        self._session.local_hostname = _own_address(self._session)
        self.expect("EHLO", lambda session: session.ehlo())
        if smtp.security == "starttls":
            self._encrypt(tls)
            self.expect("EHLO", lambda session: session.ehlo())
        if smtp.username:
            with _step("AUTH"):
                self._session.login(smtp.username, smtp.password.get_secret_value() if smtp.password else "")

    def _encrypt(self, tls: ssl.SSLContext | None) -> None:
        """Encrypt or go no further: without a context smtplib would take any certificate."""
        if not self._session.has_extn("starttls"):
            hint = 'See that it does, or use security = "tls" if its port begins with TLS (465)'
            raise DependencyDown(
                "the relay offers no STARTTLS, and nothing is sent in clear", hint=hint, step="STARTTLS"
            )
        with _step("STARTTLS"):
            self._session.starttls(context=tls)

    def _transact(self, mail: Mail, sending: Callable[[], None]) -> Reply:
        self._wait_at_most(self._timeouts.command_s)
        options = _mail_options(self._session, mail)
        self.expect("MAIL", lambda session: session.mail(mail.envelope_from, options))
        self.expect("RCPT", lambda session: session.rcpt(mail.recipient))
        self.expect("DATA", lambda session: session.docmd("DATA"), range(354, 355))
        with _step("DATA"):
            # RFC 5321 4.5.2: a line that begins with a dot gets another one.
            self._session.send(re.sub(rb"^\.", b"..", mail.content, flags=re.MULTILINE))
        self._expect_silence()
        # A crash before `sending` returns, or its refusal: the relay has no complete mail and delivers none.
        sending()
        self._expect_silence()  # the ledger took its time: a relay that went away meanwhile leaves no doubt
        sending()  # so did we, if this process was paused: the lease may be another's by now
        # A crash from here until the caller has recorded the answer: the relay may have the mail, and the ledger says
        # `sending`, which becomes `unknown`. A crash after that: it is recorded as sent.
        return self._dot()

    def _dot(self) -> Reply:
        try:
            self._wait_at_most(self._timeouts.dot_s)
            self._session.send(b".\r\n")
            reply = _reply(self._session.getreply())
        except OSError as exc:
            raise ConnectionLost(f"no answer to the final dot: {_why(exc)}", step=DOT) from exc
        if 200 <= reply.code <= 299:
            return reply
        if 400 <= reply.code <= 599:
            raise refusal(reply, DOT)
        raise ConnectionLost("the answer to the final dot is none", step=DOT)

    def _expect_silence(self) -> None:
        if self._has_input():
            raise DependencyDown("the relay spoke or hung up in the middle of a mail: it was not sent", step="DATA")

    def _rest(self) -> None:
        self._mails += 1
        self._used_at = time.monotonic()
        self.in_order = self._mails < _MAILS_MAX

    def _rested_s(self) -> float:
        return time.monotonic() - self._used_at

    def _reset(self) -> bool:
        try:
            self._wait_at_most(_RESET_MAX_S)
            return self._session.rset()[0] == 250
        except OSError:
            return False

    def _has_input(self) -> bool:
        """Tell whether there is something to read when the relay has nothing to say: an end, or an answer too many.

        That would be taken for the answer to the final dot.
        """
        if self._session.sock is None or self._session.file is None:
            return True
        self._wait_at_most(0.0)
        try:
            # With TLS "nothing" raises and "the end" is empty. Without it both are empty: peeking at the socket tells.
            if not self._session.file.peek(1) and not isinstance(self._session.sock, ssl.SSLSocket):
                self._session.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    def _wait_at_most(self, timeout_s: float) -> None:
        if self._session.sock:
            self._session.sock.settimeout(timeout_s)


def _is_lost_in_a_mail(exc: DependencyDown) -> bool:
    """Tell whether the relay hung up, fell silent or spoke nonsense in a mail, rather than refuse it to everyone."""
    return "code" not in exc.fields and exc.fields.get("step") in ("MAIL", "RCPT", "DATA")


def _dial(smtp: Smtp, tls: ssl.SSLContext | None, timeout_s: float) -> smtplib.SMTP:
    if smtp.security == "tls":
        return smtplib.SMTP_SSL(smtp.host, smtp.port, local_hostname="localhost", timeout=timeout_s, context=tls)
    return smtplib.SMTP(smtp.host, smtp.port, local_hostname="localhost", timeout=timeout_s)


def _tls(smtp: Smtp) -> ssl.SSLContext | None:
    if smtp.security == "none":
        return None
    try:
        return ssl.create_default_context(cafile=smtp.ca_file)
    except OSError as exc:
        raise ConfigInvalid(f"smtp.ca_file: no certificates can be read from it: {_why(exc)}") from exc


def _own_address(session: smtplib.SMTP) -> str:
    address: str = session.sock.getsockname()[0] if session.sock else "127.0.0.1"
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _mail_options(session: smtplib.SMTP, mail: Mail) -> list[str]:
    """Say at MAIL what the mail needs. Raises MailRejected when the relay can't do it."""
    options = []
    if session.has_extn("size"):
        options.append(f"size={len(mail.content)}")
        limit = session.esmtp_features["size"]
        if limit.isdigit() and 0 < int(limit) < len(mail.content):  # RFC 1870 4: 0 is no limit
            raise MailRejected(f"the mail is larger than the relay takes: {limit} bytes", code="too_large")
    if mail.needs_smtputf8:
        if not session.has_extn("smtputf8"):
            message = "the address is not ASCII, and the relay has no SMTPUTF8"
            raise MailRejected(message, code="no_smtputf8", users_own=True)
        options += ["SMTPUTF8", "BODY=8BITMIME"]
    return options


@contextmanager
def _step(step: str, whom: str = "the relay") -> Iterator[None]:
    """Classify what fails before the final dot: nothing was sent, and it would happen to every mail."""
    try:
        yield
    except smtplib.SMTPResponseException as exc:
        # Later ones are smtplib's own, a 500 for a line that is too long: not the relay's answer about a mail.
        code = exc.smtp_code if step in ("connect", "STARTTLS", "AUTH") else NO_CODE
        raise refusal(_reply((code, exc.smtp_error)), step) from exc
    except ssl.SSLCertVerificationError as exc:
        hint = "smtp.ca_file names the authority that signed it, smtp.host the relay as the certificate does"
        raise DependencyDown(
            f"the certificate of {whom} is not good: {exc.verify_message}", hint=hint, step=step
        ) from exc
    except (OSError, UnicodeError) as exc:
        raise DependencyDown(f"{whom}, {step}: {_why(exc)}", hint=_HINTS.get(step, ""), step=step) from exc


def _reply(answer: tuple[int, bytes | str]) -> Reply:
    code, text = answer
    return Reply(code, text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _why(exc: Exception) -> str:
    """Say what failed in the operating system's words; smtplib's may quote the relay's."""
    if isinstance(exc, smtplib.SMTPServerDisconnected):
        return "it hung up, or did not answer in time"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed ({exc.reason or 'cut off'})"
    return str(getattr(exc, "strerror", None) or type(exc).__name__)
