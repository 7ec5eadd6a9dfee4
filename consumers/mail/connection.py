"""One connection to a relay: one mail at a time, and the one step that matters.

A mail's point of no return is its final dot (RFC 5321 4.1.1.4): before it nothing was sent, whatever is lost; after it
only the relay knows, until it answers.
"""

from __future__ import annotations

import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from cdc.runtime.errors import ConnectionLost, Deferred, DependencyDown, MailRejected, ServiceError
from cdc.runtime.sections_mail import Smtp
from consumers.mail import session
from consumers.mail.message import Mail
from consumers.mail.reply import DOT, Reply, refusal
from consumers.mail.session import Timeouts

#: A connection that rested this long is asked (RSET) before it is used again; after this much longer it is not used.
ASK_AFTER_S, REST_MAX_S = 5.0, 60.0
_RESET_MAX_S, _LEAVE_MAX_S = 5.0, 1.0
#: Relays close a connection after some mails, often a hundred, with 421: we are first.
_MAILS_MAX = 100

_GO_ON = 354
_DOT_FIRST = re.compile(rb"^\.", re.MULTILINE)


class _Command(NamedTuple):
    """What is said to the relay, and the answers that are hoped for."""

    step: str
    line: bytes
    codes: range


class Connection:
    """A connection that is encrypted and authenticated as settings say. For one thread, but for `cut`.

    Raises DependencyDown when it can't be had.
    """

    def __init__(self, smtp: Smtp, tls: ssl.SSLContext | None, timeouts: Timeouts) -> None:
        self.in_order = True
        self._timeouts = timeouts
        self._mails = 0
        self._refused = False  # the last mail was: its transaction is still open
        self._out_of_step = False  # the relay has an answer to give, or waits for the rest of a mail
        self._session = session.begin(smtp, tls, timeouts.connect_s)
        self._line = self._session.line()
        self._used_at = time.monotonic()

    @property
    def is_used(self) -> bool:
        """Tell whether it carried mails already: relays have limits of these."""
        return self._mails > 0

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

    def ask(self) -> None:
        """Ask whether it works, and change nothing. Raises DependencyDown."""
        self._say([_Command("NOOP", b"NOOP\r\n", session.YES)])

    def is_fit(self) -> bool:
        """Tell whether the relay has neither hung up nor spoken meanwhile, and after a while whether it answers."""
        if self.is_old() or not self._line.is_silent():
            return False
        # A refused mail leaves its transaction open: another MAIL would be out of order (RFC 5321 4.1.4).
        return self._reset() if self._refused or self._rested_s() > ASK_AFTER_S else True

    def is_old(self) -> bool:
        """Tell whether it rested for so long that it is not worth a question."""
        return self._rested_s() > REST_MAX_S

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
            self._line.say(b"QUIT\r\n", _LEAVE_MAX_S)
            self._line.hear(_LEAVE_MAX_S)
        self._session.close()

    def _transact(self, mail: Mail, sending: Callable[[], None]) -> Reply:
        commands = _commands(self._session, mail)
        # RFC 2920: all in one go where the relay takes it, which saves two of its answers' ways.
        for group in [commands] if self._session.has_extn("pipelining") else [[command] for command in commands]:
            self._say(group)
        with session.step("DATA"):
            self._line.say(_stuffed(mail.content), self._timeouts.command_s)
        self._expect_silence()
        # A crash before `sending` returns, or its refusal: the relay has no complete mail and delivers none.
        sending()
        self._expect_silence()  # the ledger took its time: a relay that went away meanwhile leaves no doubt
        sending()  # so did we, if this process was paused: the lease may be another's by now
        # A crash from here until the caller has recorded the answer: the relay may have the mail, and the ledger says
        # `sending`, which becomes `unknown`. A crash after that: it is recorded as sent.
        return self._dot()

    def _say(self, group: Sequence[_Command]) -> None:
        """Say commands and hear all their answers. Raises what the first refusal means, or DependencyDown."""
        self._out_of_step = True
        with session.step(group[0].step):
            self._line.say(b"".join(command.line for command in group), self._timeouts.command_s)
        refused: ServiceError | None = None
        for command in group:
            try:
                answer = self._hear(command.step, self._timeouts.command_s)
            except DependencyDown as exc:
                raise refused or exc from exc  # what it refused before it went away is what counts
            if refused is None and answer.code not in command.codes:
                refused = refusal(answer, command.step)
        # A relay may wait for the text although it takes it for nobody (RFC 2920 3.1). The dot that would end this is
        # not ours to write: so lax a relay might deliver what it got.
        self._out_of_step = answer.code == _GO_ON
        if refused:
            raise refused

    def _hear(self, step: str, timeout_s: float, whom: str = "the relay") -> Reply:
        with session.step(step, whom):
            return session.reply(self._line.hear(timeout_s))

    def _dot(self) -> Reply:
        try:
            self._line.say(b".\r\n", self._timeouts.dot_s)
            reply = session.reply(self._line.hear(self._timeouts.dot_s))
        except OSError as exc:
            raise ConnectionLost(f"no answer to the final dot: {session.why(exc)}", step=DOT) from exc
        self._out_of_step = False
        if reply.code in session.YES:
            return reply
        if 400 <= reply.code <= 599:
            raise refusal(reply, DOT)
        raise ConnectionLost("the answer to the final dot is none", step=DOT)

    def _expect_silence(self) -> None:
        """Let no answer but the dot's be taken for it. Raises what a refusal in the middle of the text means."""
        if self._line.is_silent():
            return
        answer = self._hear("DATA", _RESET_MAX_S, "the relay, in the middle of a mail that was not sent")
        if 400 <= answer.code <= 599:
            raise refusal(answer, "DATA")
        raise DependencyDown("the relay spoke in the middle of a mail: it was not sent", step="DATA")

    def _rest(self) -> None:
        self._mails += 1
        self._used_at = time.monotonic()
        self.in_order = self._mails < _MAILS_MAX and not self._out_of_step

    def _rested_s(self) -> float:
        return time.monotonic() - self._used_at

    def _reset(self) -> bool:
        try:
            self._line.say(b"RSET\r\n", _RESET_MAX_S)
            return self._line.hear(_RESET_MAX_S)[0] == 250
        except OSError:
            return False


def _commands(opened: smtplib.SMTP, mail: Mail) -> list[_Command]:
    """Say what begins a mail. Raises MailRejected when the relay can't take it."""
    encoding = "utf-8" if mail.needs_smtputf8 else "ascii"
    options = "".join(f" {option}" for option in _mail_options(opened, mail))
    lines = (f"MAIL FROM:<{mail.envelope_from}>{options}\r\n", f"RCPT TO:<{mail.recipient}>\r\n")
    if any(line.count("\r") + line.count("\n") + line.count(">") != 3 for line in lines):
        raise MailRejected("the address would end its command", code="address_invalid", users_own=True)
    sender, recipient = (line.encode(encoding) for line in lines)
    return [
        _Command("MAIL", sender, session.YES),
        _Command("RCPT", recipient, session.YES),
        _Command("DATA", b"DATA\r\n", range(_GO_ON, _GO_ON + 1)),
    ]


def _mail_options(opened: smtplib.SMTP, mail: Mail) -> list[str]:
    """Say at MAIL what the mail needs. Raises MailRejected when the relay can't do it."""
    options = []
    if opened.has_extn("size"):
        options.append(f"size={len(mail.content)}")
        limit = opened.esmtp_features["size"]
        if limit.isdecimal() and len(limit) < 20 and 0 < int(limit) < len(mail.content):  # RFC 1870 4: 0 is no limit
            raise MailRejected(f"the mail is larger than the relay takes: {limit} bytes", code="too_large")
    if mail.needs_smtputf8:
        if not opened.has_extn("smtputf8"):
            message = "the address is not ASCII, and the relay has no SMTPUTF8"
            raise MailRejected(message, code="no_smtputf8", users_own=True)
        options += ["SMTPUTF8", "BODY=8BITMIME"]
    return options


def _stuffed(content: bytes) -> bytes:
    """Double the dot at the beginning of each line that has one (RFC 5321 4.5.2)."""
    return _DOT_FIRST.sub(b"..", content) if content.startswith(b".") or b"\n." in content else content
