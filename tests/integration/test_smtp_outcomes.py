"""What becomes of a delivery by what a real SMTP server says or does at each step: aiosmtpd, misbehaving as told."""

import asyncio
import random
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from cdc.runtime.errors import ServiceError
from cdc.runtime.sections import Rule
from cdc.runtime.sections_mail import Smtp
from consumers.mail.message import Mail
from consumers.mail.session import Timeouts
from consumers.mail.transport import Transport
from consumers.outcome import Dead, Outcome, Pause, Retry, Sent, Unknown, decide
from deploy.local.net import free_port
from tests.support.tls import Certificates

SHORT = Timeouts(connect_s=0.5, command_s=0.3, dot_s=0.3)
DROP, HANG = "drop", "hang"
RULE = Rule.model_validate({"name": "welcome", "on": "created", "mail": "welcome"})
CONTENT = b"Subject: Hi\r\n\r\n.\r\n..\r\n"


class Moody:
    """aiosmtpd's hooks: at one step it answers, hangs or hangs up as told, everywhere else it is kind."""

    def __init__(self, step: str = "", does: str = "") -> None:
        self.step, self.does = step, does
        self.kept: list[Envelope] = []

    async def handle_EHLO(  # noqa: N802 aiosmtpd's
        self, server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        answer = await self._answer("EHLO", server, "")
        return [answer] if answer else responses

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from, envelope.mail_options = address, options
        return await self._answer("MAIL", server, "250 2.1.0 ok")

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = await self._answer("RCPT", server, "250 2.1.5 ok")
        if answer[0] == "2":
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.step != "DOT" or self.does in (DROP, HANG) or self.does[:1] not in ("4", "5"):
            self.kept.append(envelope)
        return await self._answer("DOT", server, "250 2.0.0 kept for <ada@example.org>")

    async def _answer(self, step: str, server: SMTP, usual: str) -> str:
        if step != self.step:
            return usual
        if self.does == DROP:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        if self.does == HANG:
            await asyncio.sleep(3600)
        return self.does


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def serve(stack: ExitStack, moody: Moody, **given: Any) -> int:
    controller = Controller(moody, hostname="127.0.0.1", port=free_port(), **given)
    controller.start()
    stack.callback(controller.stop, no_assert=True)
    return int(controller.port)


def attempt(stack: ExitStack, port: int, recipient: str = "ada@example.org", **given: Any) -> tuple[Outcome, bool]:
    """Send one mail; say what the ledger would make of it, and whether the dot was asked for."""
    usual = {"host": "127.0.0.1", "port": port, "security": "none", "sender": "app@example.org"}
    transport = Transport(Smtp.model_validate(usual | given), SHORT)
    stack.callback(transport.close)
    asked: list[bool] = []
    mail = Mail("app@example.org", recipient, "<1@example.org>", CONTENT, needs_smtputf8=not recipient.isascii())
    try:
        return Sent({"reply": transport.send(mail, lambda: asked.append(True))}), bool(asked)
    except ServiceError as exc:
        tried: Any = SimpleNamespace(attempt=1, failing_since=None, lane_failures=0, in_doubt=False)
        jitter, now = random.random(), datetime.now(UTC)
        return decide(exc, tried, RULE, sending=bool(asked), now=now, jitter=jitter), bool(asked)


@pytest.mark.parametrize(
    ("step", "does", "outcome", "wait_s"),
    [
        # Down for everyone: the lane rests, nobody's attempt is spent.
        ("EHLO", "421 4.3.2 shutting down", Pause, None),
        ("EHLO", DROP, Pause, None),
        ("EHLO", HANG, Pause, None),
        ("MAIL", "421 4.7.0 too many connections, try again in 90 seconds", Pause, 90),
        ("MAIL", "451 4.3.0 trouble", Pause, None),
        ("MAIL", "550 5.7.1 this sender may not", Pause, None),
        ("MAIL", "530 5.7.0 authenticate", Pause, None),
        ("MAIL", DROP, Pause, None),
        ("MAIL", HANG, Pause, None),
        ("RCPT", "421 4.3.2 closing", Pause, None),
        ("RCPT", "454 4.7.0 Throttling failure", Pause, None),
        ("RCPT", "452 4.3.1 out of disk", Pause, None),
        ("RCPT", DROP, Pause, None),
        ("RCPT", HANG, Pause, None),
        ("DOT", "421 4.3.2 closing", Pause, None),
        ("DOT", "454 4.7.0 Maximum sending rate exceeded, wait 5 minutes", Pause, 300),
        # About this mail, for now.
        ("RCPT", "450 4.2.1 busy", Retry, None),
        ("RCPT", "451 4.7.1 Greylisted, try again in 300 seconds", Retry, 300),
        ("RCPT", "452 4.2.2 mailbox full", Retry, None),
        ("RCPT", "552 5.2.2 mailbox full", Retry, None),
        ("DOT", "451 4.3.0 later", Retry, None),
        ("DOT", "452 4.5.3 too much", Retry, None),
        # About this mail, for good.
        ("MAIL", "552 5.3.4 too big", Dead, None),
        ("RCPT", "550 5.1.1 unknown", Dead, None),
        ("RCPT", "553 5.1.3 what is that", Dead, None),
        ("RCPT", "556 5.1.10 takes no mail", Dead, None),
        ("RCPT", "550 5.7.1 not wanted", Dead, None),
        ("DOT", "554 5.6.0 unreadable", Dead, None),
        ("DOT", "550 5.7.1 looks like spam", Dead, None),
        # In doubt: the dot left, and no answer came.
        ("DOT", DROP, Unknown, None),
        ("DOT", HANG, Unknown, None),
        ("DOT", "gibberish", Unknown, None),
        ("DOT", "250 2.0.0 kept", Sent, None),
    ],
)
def test_what_the_server_does_decides_what_becomes_of_the_delivery(
    stack: ExitStack, step: str, does: str, outcome: type[Outcome], wait_s: float | None
) -> None:
    moody = Moody(step, does)
    became, asked = attempt(stack, serve(stack, moody))
    assert type(became) is outcome
    assert asked is (step == "DOT")
    assert bool(moody.kept) is (outcome in (Unknown, Sent))
    if wait_s is not None:
        assert isinstance(became, Pause | Retry)
        assert (became.pause_s if isinstance(became, Pause) else became.after_s) == pytest.approx(wait_s, abs=5)


class Wild(socketserver.ThreadingTCPServer):
    """A server that says anything at one step, byte by byte or without end; everywhere else it is kind."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, step: str, says: bytes, every_s: float = 0.0, *, endless: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _WildDialogue)
        self.step, self.says, self.every_s, self.endless = step, says, every_s, endless


class _WildDialogue(socketserver.StreamRequestHandler):
    server: Wild

    def handle(self) -> None:
        with suppress(OSError):
            self._say("connect", b"220 ready\r\n")
            while line := self.rfile.readline():
                verb = line[:4].strip().upper().decode()
                self._say(verb, {"DATA": b"354 go on\r\n", "AUTH": b"235 ok\r\n"}.get(verb, KIND))
                if verb == "DATA" and self.server.step != "DATA":
                    while self.rfile.readline() not in (b".\r\n", b""):
                        pass
                    self._say("DOT", b"250 kept\r\n")

    def _say(self, step: str, usual: bytes) -> None:
        if step != self.server.step:
            self.wfile.write(usual)
            return
        while True:
            if self.server.every_s:
                for byte in self.server.says:
                    self.wfile.write(bytes([byte]))
                    time.sleep(self.server.every_s)
            else:
                self.wfile.write(self.server.says)
            if not self.server.endless:
                return


KIND = b"250-relay.test\r\n250-SIZE 1000000\r\n250 AUTH PLAIN LOGIN\r\n"


def test_a_server_that_refuses_ehlo_gets_the_mail_after_helo(stack: ExitStack) -> None:
    moody = Moody("EHLO", "502 5.5.1 not implemented")
    became, _ = attempt(stack, serve(stack, moody))
    assert isinstance(became, Sent)
    assert len(moody.kept) == 1


@pytest.mark.parametrize("step", ["connect", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize(
    ("says", "more"),
    [
        (b"250-and more\r\n", {"endless": True}),
        (b"250-and more\r\n", {"endless": True, "every_s": 0.02}),
        (b"250-" + b"x" * 10_000_000, {}),
        (b"250 " + b"x" * 100 + b"\r\n", {"every_s": 0.02}),
        (b"250-half an answer\r\n", {}),
        (b"999 what\r\n", {}),
        (b"\0\0\0 \0\r\n", {}),
        (b"334 !\xff not base64\r\n", {}),
        (b"\r\n", {}),
        ("٢٥٠ ok\r\n".encode(), {}),
    ],
)
def test_an_answer_that_is_none_or_never_ends_is_given_up_in_time(
    stack: ExitStack, step: str, says: bytes, more: dict[str, Any]
) -> None:
    server = stack.enter_context(Wild(step, says, **more))
    stack.callback(server.shutdown)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    began_s = time.monotonic()
    became, asked = attempt(stack, server.server_address[1], username="u", password="p")
    assert time.monotonic() - began_s < 5
    assert isinstance(became, Unknown if step == "DOT" else Pause), became
    assert asked is (step == "DOT")


@pytest.mark.parametrize("size", ["²", "9" * 5000, "-1", "many", "0"])
def test_a_size_that_is_none_limits_nothing(stack: ExitStack, size: str) -> None:
    server = stack.enter_context(Wild("EHLO", f"250-relay.test\r\n250 SIZE {size}\r\n".encode("latin-1")))
    stack.callback(server.shutdown)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    assert isinstance(attempt(stack, server.server_address[1])[0], Sent)


def test_the_dialogue_arrives_as_it_was_meant_and_no_address_is_kept(stack: ExitStack) -> None:
    moody = Moody()
    port = serve(stack, moody, enable_SMTPUTF8=True)
    for recipient in ("ada@example.org", "dörte@example.org"):
        became, _ = attempt(stack, port, recipient)
        assert became == Sent({"reply": "250 2.0.0 kept for <address>"})
    assert [envelope.rcpt_tos for envelope in moody.kept] == [["ada@example.org"], ["dörte@example.org"]]
    assert {envelope.content for envelope in moody.kept} == {CONTENT}


@pytest.mark.parametrize(
    ("server", "recipient", "code"),
    [
        ({"enable_SMTPUTF8": False}, "dörte@example.org", "no_smtputf8"),
        ({"data_size_limit": 20}, "ada@example.org", "too_large"),
    ],
)
def test_what_the_server_says_it_can_not_take_is_dead_before_anything_is_said(
    stack: ExitStack, server: dict[str, Any], recipient: str, code: str
) -> None:
    became, asked = attempt(stack, serve(stack, Moody(), **server), recipient)
    assert isinstance(became, Dead)
    assert (became.error["code"], asked) == (code, False)


def refuse(*_: object) -> AuthResult:
    return AuthResult(success=False, handled=False)


@pytest.mark.parametrize(
    ("server", "client", "says"),
    [
        ({"authenticator": refuse, "auth_require_tls": False}, {"username": "app", "password": "pw"}, "535"),
        ({}, {"username": "app", "password": "pw"}, "AUTH: it does not offer"),
        ({}, {"security": "starttls"}, "STARTTLS"),
        ({}, {"security": "tls"}, "TLS failed"),
    ],
)
def test_a_login_or_an_encryption_that_fails_rests_the_lane_and_says_where_to_look(
    stack: ExitStack, server: dict[str, Any], client: dict[str, Any], says: str
) -> None:
    became, asked = attempt(stack, serve(stack, Moody(), **server), **client)
    assert isinstance(became, Pause)
    assert says in str(became.error["reason"])
    assert not asked


def test_encryption_is_demanded_and_a_wrong_name_or_an_unknown_authority_rests_the_lane(
    stack: ExitStack, certificates: Certificates
) -> None:
    good, other = certificates.server(), certificates.server("other.example")
    known = {"security": "starttls", "ca_file": str(certificates.ca_file)}
    assert isinstance(attempt(stack, _starttls(stack, good), **known)[0], Sent)
    for context, client in ((other, known), (good, {"security": "starttls"})):
        became, _ = attempt(stack, _starttls(stack, context), **client)
        assert isinstance(became, Pause)
        assert "certificate" in str(became.error["reason"])


def _starttls(stack: ExitStack, context: ssl.SSLContext) -> int:
    return serve(stack, Moody(), tls_context=context, require_starttls=True)
