"""An SMTP relay that does as it is told: refuses, hangs, hangs up, at any step of the dialogue.

Written on plain sockets: a server library would not let go of a connection between two lines of a mail.
"""

import base64
import contextlib
import io
import re
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from tests.support.misbehaving import Misbehaving
from tests.support.script import Fault, Script

Reply = str | Fault
#: A client that is well says its next command sooner.
_AT_ONCE_S = 1.0


@dataclass(frozen=True)
class Accepted:
    """A mail whose final dot arrived and was not refused; also when the relay hung up then instead of saying so."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    at: float


class Relay(Misbehaving):
    """A relay on a port of 127.0.0.1. Without a script it accepts everything.

    The places of a script: connect, ehlo, helo, starttls, auth, mail, rcpt, data (the answer to DATA), body (while the
    text comes, before the final dot), dot (after it), rset, quit. rcpt and dot may be narrowed to a
    recipient: `rcpt ada@example.org`. A step is a reply ("451 4.7.1 later") or a Fault.

    `tls` offers STARTTLS, or with `implicit` begins with TLS. `users` (name: password) asks for AUTH before MAIL.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        users: dict[str, str] | None = None,
    ) -> None:
        super().__init__(port)
        self.tls, self.implicit, self.users = tls, implicit, users or {}
        self.script: Script[Reply] = Script()
        self.accepted: list[Accepted] = []
        #: Mails whose text came, and perhaps their dot and its answer, before the client fell silent: it may not know.
        self.left_open: list[bytes] = []
        self.connections = 0
        self.quits = 0  #: connections that ended as they should
        self.spoke_early = threading.Event()  #: it answered a text before its dot
        self.lax = False  #: takes a text that is for nobody
        self.delay_s = 0.0  #: before each answer to a final dot
        self.dialogues: set[_Dialogue] = set()

    def listen(self) -> socketserver.ThreadingTCPServer:
        return _Server(self)

    def hang_up(self) -> None:
        for dialogue in list(self.dialogues):
            dialogue.hang_up()

    def mails_to(self, address: str) -> list[Accepted]:
        return [mail for mail in self.accepted if address in mail.recipients]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        super().__init__((relay.host, relay.port), _Dialogue)


class _HungUp(Exception):
    """The dialogue is over."""


class _Dialogue(socketserver.StreamRequestHandler):
    """One connection. A method per command; each sends exactly one answer."""

    server: _Server
    disable_nagle_algorithm = True  # else the second of several answers waits until the first is acknowledged

    def setup(self) -> None:
        super().setup()
        self.relay = self.server.relay
        self.relay.dialogues.add(self)
        self.relay.connections += 1
        self.encrypted = self.authenticated = self.extended = False
        self.sender, self.recipients = "", list[str]()
        self.text: list[bytes] = []  # of the last mail, until the client speaks again
        self.answered_at = 0.0

    def handle(self) -> None:
        with contextlib.suppress(_HungUp, OSError):  # ssl.SSLError is an OSError
            if self.relay.tls and self.relay.implicit:
                self._encrypt()
            self._answer("220 relay.test ESMTP", "connect")
            while line := self._line():
                self._close(after_s=_AT_ONCE_S)
                verb, _, argument = line.decode("utf-8", "surrogateescape").strip().partition(" ")
                self._command(verb.lower())(argument)

    def finish(self) -> None:
        self.relay.dialogues.discard(self)
        self._close(after_s=0.0)
        self.hang_up()
        self.rfile.close()
        self.request.close()

    def _close(self, *, after_s: float) -> None:
        """Forget the last mail, unless its client was silent for so long after it."""
        if self.text and time.time() - self.answered_at >= after_s:
            self.relay.left_open.append(b"".join(self.text))
        self.text = []

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):  # the other side was first
            self.request.shutdown(socket.SHUT_RDWR)

    def _command(self, verb: str) -> Callable[[str], Any]:
        known: Callable[[str], Any] | None = getattr(self, f"_on_{verb}", None)
        return known or (lambda _: self._send("502 5.5.1 not known here"))

    def _on_ehlo(self, _: str) -> None:
        extensions = ["relay.test", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "PIPELINING"]
        if self.relay.tls and not self.encrypted:
            extensions.append("STARTTLS")
        elif self.relay.users:
            extensions.append("AUTH PLAIN LOGIN")
        self._reset()
        usual = "\r\n".join([*(f"250-{name}" for name in extensions[:-1]), f"250 {extensions[-1]}"])
        self.extended = self._answer(usual, "ehlo")

    def _on_helo(self, _: str) -> None:
        self._reset()
        self.extended = False
        self._answer("250 relay.test", "helo")

    def _on_starttls(self, _: str) -> None:
        if self._answer("220 go on", "starttls"):
            self._encrypt()

    def _on_auth(self, argument: str) -> None:
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() == "PLAIN":
            _, user, password = base64.b64decode(initial or self._ask("")).decode().split("\0")
        else:
            user = base64.b64decode(initial or self._ask("VXNlcm5hbWU6")).decode()
            password = base64.b64decode(self._ask("UGFzc3dvcmQ6")).decode()
        known = self.relay.users.get(user) == password
        self.authenticated = self._answer("235 2.7.0 welcome" if known else "535 5.7.8 unknown", "auth") and known

    def _on_mail(self, argument: str) -> None:
        if self.relay.users and not self.authenticated:
            self._send("530 5.7.0 authenticate first")
        elif not self.extended and not argument.endswith(">"):
            self._send("555 5.5.4 no such option")
        elif self._answer("250 2.1.0 ok", "mail"):
            self.sender, self.recipients = _address(argument), []

    def _on_rcpt(self, argument: str) -> None:
        recipient = _address(argument)
        if not self.sender:
            self._send("503 5.5.1 no MAIL")
        elif self._answer("250 2.1.5 ok", f"rcpt {recipient}", "rcpt"):
            self.recipients.append(recipient)

    def _on_data(self, _: str) -> None:
        if not self.recipients and not self.relay.lax:
            self._send("503 5.5.1 no recipient")
        elif self._answer("354 go on", "data"):
            content = self._body()
            mail = Accepted(self.sender, tuple(self.recipients), content, time.time())
            time.sleep(self.relay.delay_s)
            self._answer("250 2.0.0 kept", *(f"dot {recipient}" for recipient in mail.recipients), "dot", keep=mail)
            self.answered_at = time.time()
            self._reset()

    def _on_rset(self, _: str) -> None:
        self._reset()
        self._answer("250 2.0.0 ok", "rset")

    def _on_noop(self, _: str) -> None:
        self._send("250 2.0.0 ok")

    def _on_quit(self, _: str) -> None:
        self.relay.quits += 1
        self._answer("221 2.0.0 bye", "quit")
        raise _HungUp

    def _answer(self, usual: str, *places: str, keep: Accepted | None = None) -> bool:
        """Play the script here, else give the usual answer. Returns whether the command was not refused.

        A mail to keep is kept unless it is refused in so many words.
        """
        step = self.relay.script.take(*places)
        if keep and not isinstance(step, str):
            self.relay.accepted.append(keep)
        self._suffer(step)
        reply = step if isinstance(step, str) else usual
        if keep and isinstance(step, str) and step[0] == "2":
            self.relay.accepted.append(keep)
        self._send(reply)
        return reply[0] in "23"

    def _suffer(self, step: Reply | None) -> None:
        if step is Fault.DROP:
            raise _HungUp
        if step is Fault.HANG:
            self.relay.released.clear()
            self.relay.released.wait()

    def _body(self) -> bytes:
        """Read up to the final dot; a fault comes with the first line, so that the rest is still on its way."""
        lines = self.text = []
        while (line := self._line()) != b".\r\n":
            if not line:
                raise _HungUp
            lines.append(line.removeprefix(b"."))
            if len(lines) == 1:
                self._interrupt(self.relay.script.take("body"), lines)
        return b"".join(lines)

    def _interrupt(self, step: Reply | None, lines: list[bytes]) -> None:
        if step is Fault.DROP:
            # The client may have written the dot already: an audit has to know of which mail.
            lines.append(cast(io.BufferedReader, self.rfile).peek())
        self._suffer(step)
        if isinstance(step, str):
            self._send(step)
            self.relay.spoke_early.set()

    def _line(self) -> bytes:
        return self.rfile.readline(8192)

    def _send(self, reply: str) -> None:
        self.request.sendall(reply.encode() + b"\r\n")

    def _ask(self, challenge: str) -> bytes:
        self._send(f"334 {challenge}")
        return self._line().strip()

    def _encrypt(self) -> None:
        assert self.relay.tls
        self.rfile.close()
        self.request = self.relay.tls.wrap_socket(self.request, server_side=True)
        self.rfile = self.request.makefile("rb")
        self.encrypted = True

    def _reset(self) -> None:
        self.sender, self.recipients = "", []


def _address(argument: str) -> str:
    found = re.search(r"<([^>]*)>", argument)
    return found[1] if found else argument
