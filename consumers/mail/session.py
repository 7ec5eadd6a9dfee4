"""A session with a relay: opened, encrypted, logged in. What an answer means is told here and in `reply`.

SMTP's library is spoken to here and in `connection`. No error holds an address or the relay's text.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from cdc.runtime.errors import ConfigInvalid, DependencyDown
from cdc.runtime.sections_mail import Smtp
from consumers.mail.answers import Session, TlsSession
from consumers.mail.reply import NO_CODE, Reply, refusal

#: The codes of a yes, and of a command that is not known or not there (RFC 5321 3.2, 4.2.4).
YES = range(200, 300)
_NOT_KNOWN = (500, 502, 504)


class Timeouts(NamedTuple):
    """How long to wait for the relay, in seconds, each time."""

    connect_s: float = 30.0  #: TCP, TLS, and the greeting, before which relays look up who we are
    command_s: float = 300.0  #: RFC 5321 4.5.3.2.2 to .5
    dot_s: float = 600.0  #: RFC 5321 4.5.3.2.6; giving up earlier makes a slow yes a duplicate
    turn_s: float = 10.0  #: for a connection, where all are in use


#: What mends a step that failed without a word from the relay.
_HINTS = {
    "connect": "See smtp.host, smtp.port and smtp.security, and whether the relay runs",
    "AUTH": "See smtp.username and smtp.password_file, and whether the relay offers AUTH",
}


def begin(smtp: Smtp, tls: ssl.SSLContext | None, connect_s: float) -> Session:
    """Open a session, encrypted and authenticated as settings say. Raises DependencyDown when it can't be had."""
    with step("connect", f"the relay {smtp.host}:{smtp.port}"):
        session = _dial(smtp, tls, connect_s)
    try:
        _begin(session, smtp, tls)
    except BaseException:
        session.close()
        raise
    return session


def context(smtp: Smtp) -> ssl.SSLContext | None:
    """Say what TLS demands of a relay; None: there is none. Raises ConfigInvalid when `ca_file` can't be read."""
    if smtp.security == "none":
        return None
    try:
        return ssl.create_default_context(cafile=smtp.ca_file)
    except OSError as exc:
        raise ConfigInvalid(f"smtp.ca_file: no certificates can be read from it: {why(exc)}") from exc


def _dial(smtp: Smtp, tls: ssl.SSLContext | None, timeout_s: float) -> Session:
    if smtp.security == "tls":
        return TlsSession(smtp.host, smtp.port, local_hostname="localhost", timeout=timeout_s, context=tls)
    return Session(smtp.host, smtp.port, local_hostname="localhost", timeout=timeout_s)


def _begin(session: smtplib.SMTP, smtp: Smtp, tls: ssl.SSLContext | None) -> None:
    if session.sock:
        # Else the final dot waits until the text before it is acknowledged: 40 ms on Linux (Nagle, RFC 896).
        session.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # smtplib would ask DNS for our name, which can take seconds; our address will do (RFC 5321 4.1.3).
    session.local_hostname = _own_address(session)
    _greet(session)
    if smtp.security == "starttls":
        _encrypt(session, tls)
        _greet(session)
    if smtp.username:
        with step("AUTH"):
            session.login(smtp.username, smtp.password.get_secret_value() if smtp.password else "")


def _greet(session: smtplib.SMTP) -> None:
    """Say who we are; with the old word where the relay does not know the new one, and then it has no extensions."""
    word = "EHLO"
    with step(word):
        answer = reply(session.ehlo())
    if answer.code in _NOT_KNOWN:
        word = "HELO"
        with step(word):
            answer = reply(session.helo())
    if answer.code not in YES:
        raise refusal(answer, word)


def _encrypt(session: smtplib.SMTP, tls: ssl.SSLContext | None) -> None:
    """Encrypt or go no further: without a context smtplib would take any certificate."""
    if not session.has_extn("starttls"):
        hint = 'See that it does, or use security = "tls" if its port begins with TLS (465)'
        raise DependencyDown("the relay offers no STARTTLS, and nothing is sent in clear", hint=hint, step="STARTTLS")
    with step("STARTTLS"):
        session.starttls(context=tls)


def _own_address(session: smtplib.SMTP) -> str:
    address: str = session.sock.getsockname()[0] if session.sock else "127.0.0.1"
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


@contextmanager
def step(what: str, whom: str = "the relay") -> Iterator[None]:
    """Classify what fails before the final dot: nothing was sent, and it would happen to every mail."""
    try:
        yield
    except smtplib.SMTPResponseException as exc:
        # Later ones are smtplib's own: not the relay's answer about a mail.
        code = exc.smtp_code if what in ("connect", "STARTTLS", "AUTH") else NO_CODE
        raise refusal(reply((code, exc.smtp_error)), what) from exc
    except ssl.SSLCertVerificationError as exc:
        hint = "smtp.ca_file names the authority that signed it, smtp.host the relay as the certificate does"
        raise DependencyDown(
            f"the certificate of {whom} is not good: {exc.verify_message}", hint=hint, step=what
        ) from exc
    except (OSError, ValueError) as exc:  # ValueError: a challenge that is no base64, an address that is no ASCII
        raise DependencyDown(f"{whom}, {what}: {why(exc)}", hint=_HINTS.get(what, ""), step=what) from exc


def reply(answer: tuple[int, bytes | str]) -> Reply:
    """Read what smtplib gives."""
    code, text = answer
    return Reply(code, text if isinstance(text, str) else text.decode("utf-8", "replace"))


def why(exc: Exception) -> str:
    """Say what failed in the operating system's words; smtplib's may quote the relay's."""
    if isinstance(exc, TimeoutError):
        return "it did not answer in time"
    if isinstance(exc, smtplib.SMTPServerDisconnected):
        return "it hung up"
    if isinstance(exc, smtplib.SMTPException):
        return "it does not offer what we know"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed ({exc.reason or 'cut off'})"
    return str(getattr(exc, "strerror", None) or type(exc).__name__)
