"""Sending mail to a real SMTP server that behaves, and to one that does not."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cdc.runtime.errors import ConfigInvalid, ConnectionLost, Deferred, DependencyDown, MailRejected, ServiceError
from cdc.runtime.sections_mail import Smtp
from consumers.mail.message import Mail
from consumers.mail.session import Timeouts
from consumers.mail.transport import USUAL, Transport, probe
from consumers.outcome import Busy, LeaseLost, NotYet
from deploy.local.net import until
from tests.support.script import Fault
from tests.support.smtp import Relay, Reply
from tests.support.tls import Certificates

SHORT = Timeouts(connect_s=0.3, command_s=0.3, dot_s=0.3)
#: What a fault leads an operator to read.
LOST = [(Fault.DROP, "it hung up"), (Fault.HANG, "it did not answer in time")]
Connect = Callable[..., Transport]


def mail(recipient: str = "ada@example.org", content: bytes = b"Subject: Hi\r\n\r\nHello\r\n") -> Mail:
    return Mail("app@example.org", recipient, "<1@example.org>", content, needs_smtputf8=not recipient.isascii())


def settings(relay: Relay, **given: Any) -> Smtp:
    usual = {"host": relay.host, "port": relay.port, "security": "none", "sender": "App <app@example.org>"}
    return Smtp.model_validate(usual | given)


class Permission:
    """The ledger's answer to `sending`, and whether it was asked."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.asked = 0
        self._refusal = refusal

    def __call__(self) -> None:
        self.asked += 1
        if self._refusal:
            raise self._refusal


def wait_for(event: threading.Event) -> None:
    assert event.wait(10)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make transports that end with the test."""
    with ExitStack() as stack:

        def connect(relay: Relay, timeouts: Timeouts = USUAL, **given: Any) -> Transport:
            transport = Transport(settings(relay, **given), timeouts)
            stack.callback(transport.close)
            return transport

        yield connect


def test_a_mail_is_complete_before_permission_is_asked_and_accepted_only_after(relay: Relay, connect: Connect) -> None:
    before: list[int] = []
    reply = connect(relay).send(mail(), lambda: before.append(len(relay.accepted)))
    assert reply == "250 2.0.0 kept"
    assert before == [0, 0]  # to record it, and at the last moment
    (accepted,) = relay.accepted
    assert (accepted.sender, accepted.recipients) == ("app@example.org", ("ada@example.org",))
    assert accepted.content == b"Subject: Hi\r\n\r\nHello\r\n"


@pytest.mark.parametrize("body", [b".\r\n", b"..\r\n", b"a\r\n.\r\nb\r\n", b".a\r\n..\r\n.\r\n", b"x" * 900 + b"\r\n"])
def test_dots_at_the_beginning_of_lines_arrive_as_they_were(relay: Relay, connect: Connect, body: bytes) -> None:
    connect(relay).send(mail(content=b"Subject: Hi\r\n\r\n" + body), Permission())
    assert relay.accepted[0].content == b"Subject: Hi\r\n\r\n" + body


@pytest.mark.parametrize(
    ("place", "reply", "error", "retry_after_s"),
    [
        ("connect", "554 5.7.1 not you", DependencyDown, None),
        ("connect", "421 4.3.2 busy, try again in 2 minutes", DependencyDown, 120),
        ("ehlo", "550 5.7.1 not you", DependencyDown, None),
        ("mail", "421 4.3.2 closing", DependencyDown, None),
        ("mail", "553 5.1.8 sender unknown", DependencyDown, None),
        ("rcpt", "450 4.2.1 busy", Deferred, None),
        ("rcpt", "451 4.7.1 greylisted, try again in 300 seconds", Deferred, 300),
        ("rcpt", "550 5.1.1 unknown", MailRejected, None),
        ("rcpt", "552 5.2.2 full", Deferred, None),
        ("rcpt", "454 4.7.0 throttled", DependencyDown, None),
        ("data", "451 4.3.0 later", Deferred, None),
        ("data", "554 5.5.1 no", MailRejected, None),
        ("data", "250 2.0.0 that is no answer to DATA", DependencyDown, None),
        ("rcpt", "nonsense", DependencyDown, None),
        ("rcpt", "550 " + "x" * 9000, DependencyDown, None),
    ],
)
def test_what_is_refused_before_the_dot_is_classified_and_nothing_was_sent(
    relay: Relay, connect: Connect, place: str, reply: str, error: type[ServiceError], retry_after_s: float | None
) -> None:
    relay.script.next(place, reply)
    transport, permission = connect(relay), Permission()
    with pytest.raises(error) as refused:
        transport.send(mail(), permission)
    assert getattr(refused.value, "retry_after_s", None) == retry_after_s
    assert permission.asked == 0
    assert not relay.accepted
    assert transport.send(mail(), Permission())  # and it goes on


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("451 4.3.0 later", Deferred),
        ("421 4.3.2 closing", DependencyDown),
        ("454 Throttling failure", DependencyDown),
        ("550 5.7.1 refused", MailRejected),
        ("552 5.3.4 too big", MailRejected),
        ("354 what", ConnectionLost),
        ("nonsense", ConnectionLost),
        ("250-yes\r\n550 5.1.1 and no", ConnectionLost),
        ("451-4.3.0 no\r\n250 and yes", ConnectionLost),
        ("550 " + "x" * 9000, ConnectionLost),
    ],
)
def test_a_refusal_of_the_dot_is_an_answer_and_nonsense_is_none(
    relay: Relay, connect: Connect, reply: str, error: type[ServiceError]
) -> None:
    relay.script.next("dot", reply)
    transport, permission = connect(relay), Permission()
    with pytest.raises(error):
        transport.send(mail(), permission)
    assert permission.asked == 2
    assert transport.send(mail(), Permission())


@pytest.mark.parametrize("place", ["connect", "ehlo", "mail", "rcpt", "data"])
@pytest.mark.parametrize(("fault", "says"), LOST)
def test_a_relay_that_is_lost_before_the_dot_has_nothing_and_is_down_for_everyone(
    relay: Relay, connect: Connect, place: str, fault: Fault, says: str
) -> None:
    relay.script.next(place, fault)
    permission = Permission()
    with pytest.raises(DependencyDown, match=says):
        connect(relay, SHORT).send(mail(), permission)
    assert permission.asked == 0
    assert not relay.accepted


def test_a_relay_that_hangs_up_in_the_text_is_in_doubt_only_if_permission_was_asked(
    relay: Relay, connect: Connect
) -> None:
    for size in (10, 1_000, 100_000, 3_000_000):
        relay.script.next("body", Fault.DROP)
        permission = Permission()
        with pytest.raises((DependencyDown, ConnectionLost)) as lost:
            connect(relay).send(mail(content=b"x\r\n" * size), permission)
        assert isinstance(lost.value, ConnectionLost) is (permission.asked == 2)
    assert not relay.accepted


@pytest.mark.parametrize(("fault", "says"), LOST)
def test_a_relay_that_is_lost_after_the_dot_leaves_the_mail_in_doubt(
    relay: Relay, connect: Connect, fault: Fault, says: str
) -> None:
    relay.script.next("dot", fault)
    permission = Permission()
    with pytest.raises(ConnectionLost, match=f"final dot: {says}"):
        connect(relay, SHORT).send(mail(), permission)
    assert permission.asked == 2
    assert len(relay.accepted) == 1


@pytest.mark.parametrize("place", ["mail", "rcpt eve@example.org", "data"])
def test_a_mail_at_which_the_relay_is_lost_while_it_takes_others_counts_for_itself_alone(
    relay: Relay, connect: Connect, place: str
) -> None:
    transport, poison = connect(relay), dataclasses.replace(mail("eve@example.org"), message_id="<2@example.org>")
    relay.script.always(place, Fault.DROP)
    for _ in range(2):  # nothing says yet whose fault it is
        with pytest.raises(DependencyDown):
            transport.send(poison, Permission())
    for refused in (NotYet, NotYet, NotYet, Deferred):
        relay.script.clear()
        transport.send(mail(), Permission())
        relay.script.always(place, Fault.DROP)
        with pytest.raises(refused):
            transport.send(poison, Permission())
    relay.script.clear()
    transport.send(poison, Permission())  # and what is taken is forgiven
    relay.script.always(place, Fault.DROP)
    with pytest.raises(NotYet):
        transport.send(poison, Permission())


@pytest.mark.parametrize(
    ("place", "reply"),
    [
        ("mail", "555 5.5.4 unsupported option SMTPUTF8"),
        ("rcpt", "421 4.7.0 not to this one"),
        ("rcpt", "530 5.7.1 not to this domain"),
        ("dot", "454 4.7.0 not this one"),
    ],
)
def test_a_mail_that_alone_is_refused_as_if_all_were_rests_alone_and_then_counts_for_itself(
    relay: Relay, connect: Connect, place: str, reply: str
) -> None:
    transport, poison = connect(relay), dataclasses.replace(mail("eve@example.org"), message_id="<2@example.org>")
    for refused in (*[NotYet] * 4, Deferred):
        relay.script.clear()
        for _ in range(2):
            transport.send(mail(), Permission())
        relay.script.always(place, reply)
        with pytest.raises(refused):
            transport.send(poison, Permission())


@pytest.mark.parametrize("trouble", ["421 4.3.2 closing", Fault.DROP])
def test_mails_that_are_refused_in_a_row_are_refused_to_everyone(
    relay: Relay, connect: Connect, trouble: Reply
) -> None:
    transport = connect(relay)
    transport.send(mail(), Permission())
    relay.script.always("rcpt", trouble)
    for number, refused in enumerate((*[NotYet] * 4, DependencyDown, DependencyDown)):
        with pytest.raises(refused):
            transport.send(dataclasses.replace(mail(), message_id=f"<{number}@example.org>"), Permission())


def test_a_slow_yes_is_waited_for_longer_than_any_other_answer(relay: Relay, connect: Connect) -> None:
    relay.delay_s = 0.5
    connect(relay, SHORT._replace(dot_s=30.0)).send(mail(), Permission())
    assert len(relay.accepted) == 1


def test_a_relay_that_goes_away_while_permission_is_given_leaves_no_doubt(relay: Relay, connect: Connect) -> None:
    with pytest.raises(DependencyDown, match="not sent"):
        connect(relay).send(mail(), relay.stop)
    assert not relay.accepted


@pytest.mark.parametrize("refusal", [LeaseLost("taken over"), RuntimeError("anything")])
def test_without_permission_the_dot_is_not_written(relay: Relay, connect: Connect, refusal: Exception) -> None:
    transport = connect(relay)
    with pytest.raises(type(refusal)):
        transport.send(mail("eve@example.org"), Permission(refusal))
    transport.send(mail(), Permission())
    relay.stop()  # waits for the dropped dialogue too
    assert [accepted.recipients for accepted in relay.accepted] == [("ada@example.org",)]
    assert relay.connections == 2


@pytest.mark.parametrize(
    ("place", "reply"),
    [("rcpt", "250 2.1.5 ok\r\n250 2.0.0 kept"), ("data", "354 go on\r\n250 2.0.0 kept")],
)
def test_an_answer_too_many_is_not_taken_for_the_dots(relay: Relay, connect: Connect, place: str, reply: str) -> None:
    relay.script.next(place, reply)
    relay.script.always("dot", "550 5.7.1 refused")
    permission = Permission()
    with pytest.raises(DependencyDown):
        connect(relay).send(mail(), permission)
    assert permission.asked == 0


def test_a_refusal_in_the_middle_of_the_text_is_about_the_mail(relay: Relay, connect: Connect) -> None:
    transport = connect(relay)
    relay.script.next("body", "552 5.3.4 too big")
    with pytest.raises(MailRejected, match=r"DATA: 552 5.3.4"):
        transport.send(mail("eve@example.org"), lambda: wait_for(relay.spoke_early))
    transport.send(mail(), Permission())
    relay.stop()  # waits for the dropped dialogue too
    assert [accepted.recipients for accepted in relay.accepted] == [("ada@example.org",)]


def test_mails_share_a_connection_also_after_a_refusal(relay: Relay, connect: Connect) -> None:
    transport = connect(relay)
    for reply in ("250 2.1.5 ok", "550 5.1.1 unknown", "451 4.7.1 later", "250 2.1.5 ok"):
        relay.script.next("rcpt", reply)
        if reply.startswith("250"):
            transport.send(mail(), Permission())
        else:
            with pytest.raises((Deferred, MailRejected)):
                transport.send(mail(), Permission())
    assert (relay.connections, len(relay.accepted)) == (1, 2)


def test_a_relay_that_wants_the_text_of_a_refused_mail_gets_no_dot(relay: Relay, connect: Connect) -> None:
    relay.lax = True
    transport = connect(relay)
    relay.script.next("rcpt", "550 5.1.1 unknown")
    with pytest.raises(MailRejected):
        transport.send(mail("eve@example.org"), Permission())
    transport.send(mail(), Permission())
    relay.stop()
    assert [accepted.recipients for accepted in relay.accepted] == [("ada@example.org",)]
    assert relay.connections == 2


@pytest.mark.parametrize("place", ["mail", "rcpt"])
def test_what_was_refused_counts_even_if_the_relay_hangs_up_before_it_has_answered_all(
    relay: Relay, connect: Connect, place: str
) -> None:
    relay.script.next(place, "451 4.7.1 greylisted" if place == "rcpt" else "552 5.3.4 too big")
    relay.script.always("rcpt" if place == "mail" else "data", Fault.DROP)
    relay.lax = True
    with pytest.raises(Deferred if place == "rcpt" else MailRejected):
        connect(relay).send(mail(), Permission())


def test_a_relay_that_takes_one_command_at_a_time_gets_one_at_a_time(relay: Relay, connect: Connect) -> None:
    relay.script.always("ehlo", "250-relay.test\r\n250 8BITMIME")
    transport = connect(relay)
    for place, step, error in (
        ("mail", "421 4.3.2 closing", DependencyDown),
        ("rcpt", "550 5.1.1 unknown", MailRejected),
        ("rcpt", Fault.DROP, NotYet),
        ("data", "451 4.3.0 later", Deferred),
        ("data", "354 go on\r\n250 2.0.0 kept", NotYet),
    ):
        relay.script.next(place, step)
        with pytest.raises(error):
            transport.send(mail(), Permission())
        transport.send(mail(), Permission())
    assert len(relay.accepted) == 5


@pytest.mark.parametrize(
    "address", ["ada@example.org>\r\nRCPT TO:<eve@example.org", "a>b@example.org", "a\n@example.org"]
)
def test_an_address_that_would_end_its_command_is_not_said(relay: Relay, connect: Connect, address: str) -> None:
    with pytest.raises(MailRejected) as refused:
        connect(relay).send(mail(address), Permission())
    assert refused.value.fields["code"] == "address_invalid"
    assert not relay.accepted


def test_a_connection_that_the_relay_closed_meanwhile_costs_no_mail(relay: Relay, connect: Connect) -> None:
    transport = connect(relay)
    transport.send(mail(), Permission())
    relay.stop()
    relay.start()
    transport.send(mail(), Permission())
    assert (relay.connections, len(relay.accepted)) == (2, 2)


@pytest.mark.parametrize("step", ["500 5.5.1 what", Fault.DROP])
def test_a_connection_that_rested_is_asked_first_and_replaced_if_it_does_not_answer(
    relay: Relay, connect: Connect, monkeypatch: pytest.MonkeyPatch, step: str | Fault
) -> None:
    monkeypatch.setattr("consumers.mail.connection.ASK_AFTER_S", 0.0)
    transport = connect(relay)
    transport.send(mail(), Permission())
    transport.send(mail(), Permission())
    relay.script.next("rset", step)
    transport.send(mail(), Permission())
    assert (relay.connections, len(relay.accepted)) == (2, 3)


def test_a_connection_that_rested_too_long_is_replaced_unasked(
    relay: Relay, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.mail.connection.REST_MAX_S", 0.0)
    relay.script.next("rset", Fault.HANG)
    transport = connect(relay)
    transport.send(mail(), Permission())
    transport.send(mail(), Permission())
    assert (relay.connections, len(relay.accepted)) == (2, 2)


def test_connections_that_nobody_needs_are_ended_with_a_quit(
    relay: Relay, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.mail.connection.REST_MAX_S", 0.1)
    transport = connect(relay)
    transport.send(mail(), Permission())
    assert relay.dialogues
    until(lambda: not relay.dialogues, 5, "the connection to be ended")
    transport.send(mail(), Permission())
    assert (relay.connections, len(relay.accepted), relay.quits) == (2, 2, 1)


@pytest.mark.parametrize("end", ["421 4.7.0 too many mails here", Fault.DROP])
def test_a_relay_that_had_enough_of_a_connection_gets_the_mail_over_another(
    relay: Relay, connect: Connect, end: Reply
) -> None:
    transport = connect(relay)
    for _ in range(3):
        transport.send(mail(), Permission())
        relay.script.next("mail", end)
    transport.send(mail(), Permission())
    assert (relay.connections, len(relay.accepted)) == (4, 4)


def test_a_relay_that_takes_fewer_connections_than_settings_say_gets_fewer(relay: Relay, connect: Connect) -> None:
    transport = connect(relay, connections=4)
    relay.script.next("dot", Fault.HANG)
    with ThreadPoolExecutor(4) as threads:
        sent = [threads.submit(transport.send, mail(), Permission())]
        until(lambda: len(relay.accepted) == 1, 10, "the first mail to hang")
        relay.script.always("connect", "421 4.7.0 too many connections")
        sent += [threads.submit(transport.send, mail(), Permission()) for _ in range(3)]
        until(lambda: relay.connections > 1, 10, "a second connection to be refused")
        relay.release()
        assert {reply.result() for reply in sent} == {"250 2.0.0 kept"}
    assert len(relay.accepted) == 4


def test_a_connection_is_given_up_after_a_hundred_mails(relay: Relay, connect: Connect) -> None:
    transport = connect(relay)
    for _ in range(101):
        transport.send(mail(), Permission())
    assert (relay.connections, len(relay.accepted)) == (2, 101)


def test_the_dot_does_not_wait_until_the_text_is_acknowledged(relay: Relay, connect: Connect) -> None:
    transport, began = connect(relay), time.monotonic()
    for _ in range(90):
        transport.send(mail(), Permission())
    assert time.monotonic() - began < 90 * 0.03  # Linux acknowledges after 0.04 s, if nothing else is to be said


def test_many_threads_send_every_mail_once_over_no_more_connections_than_allowed(
    relay: Relay, connect: Connect
) -> None:
    transport = connect(relay, connections=4)
    recipients = [f"user{number}@example.org" for number in range(200)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda recipient: transport.send(mail(recipient), Permission()), recipients))
    assert sorted(accepted.recipients[0] for accepted in relay.accepted) == sorted(recipients)
    assert len(relay.dialogues) <= 4


def test_a_rate_holds_for_all_threads_together(relay: Relay, connect: Connect) -> None:
    transport = connect(relay, connections=4, rate="50/s")
    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: transport.send(mail(), Permission()), range(20)))
    assert time.monotonic() - began >= (20 - 5) / 50 - 0.05  # a tenth of a second's mails may go at once
    assert len(relay.accepted) == 20


def test_closing_ends_what_waits_for_the_relay_and_what_waits_for_its_turn(relay: Relay, connect: Connect) -> None:
    relay.script.next("dot", Fault.HANG)
    transport = connect(relay, rate="1/m")
    with ThreadPoolExecutor(2) as threads:
        sent = threads.submit(transport.send, mail(), Permission())
        until(lambda: relay.accepted, 10, "the dot to arrive")
        waiting = threads.submit(transport.send, mail(), Permission())
        transport.close()
        assert isinstance(sent.exception(10), ConnectionLost)
        assert isinstance(waiting.exception(10), DependencyDown)


@pytest.mark.parametrize("refusal", ["500 what", "502 5.5.1 not implemented", "504 5.5.4 no"])
def test_a_relay_that_does_not_know_ehlo_is_greeted_as_of_old(relay: Relay, connect: Connect, refusal: str) -> None:
    relay.script.always("ehlo", refusal)
    transport = connect(relay)
    for _ in range(2):
        transport.send(mail(), Permission())
    assert (len(relay.accepted), relay.connections) == (2, 1)
    with pytest.raises(MailRejected, match="no SMTPUTF8"):
        transport.send(mail("dörte@example.org"), Permission())


def test_a_relay_that_knows_no_extensions_gets_no_mail_where_settings_ask_for_them(
    relay: Relay, connect: Connect
) -> None:
    relay.script.always("ehlo", "502 5.5.1 not implemented")
    for given, step in (({"security": "starttls"}, "STARTTLS"), ({"username": "app", "password": "secret"}, "AUTH")):
        with pytest.raises(DependencyDown) as refused:
            connect(relay, **given).send(mail(), Permission())
        assert refused.value.fields["step"] == step
    relay.script.always("helo", "550 5.7.1 not you")
    with pytest.raises(DependencyDown, match="refused HELO: 550"):
        connect(relay).send(mail(), Permission())
    assert not relay.accepted


def test_an_address_that_is_not_ascii_needs_a_relay_that_takes_it(relay: Relay, connect: Connect) -> None:
    relay.script.next("ehlo", "250-relay.test\r\n250 8BITMIME")
    with pytest.raises(MailRejected) as refused:
        connect(relay).send(mail("dörte@example.org"), Permission())
    assert refused.value.fields["code"] == "no_smtputf8"
    connect(relay).send(mail("dörte@example.org"), Permission())
    assert relay.mails_to("dörte@example.org")


@pytest.mark.parametrize(("limit", "fits"), [("SIZE 20", False), ("SIZE 0", True), ("SIZE", True), ("SIZE 1000", True)])
def test_a_mail_that_the_relay_finds_too_large_is_not_begun(
    relay: Relay, connect: Connect, limit: str, fits: bool
) -> None:
    relay.script.next("ehlo", f"250-relay.test\r\n250 {limit}")
    transport = connect(relay)
    if fits:
        transport.send(mail(), Permission())
        return
    with pytest.raises(MailRejected, match="larger"):
        transport.send(mail(), Permission())


# TLS and authentication


@pytest.mark.parametrize(("security", "implicit"), [("starttls", False), ("tls", True)])
def test_a_mail_goes_encrypted_and_authenticated(
    certificates: Certificates, connect: Connect, security: str, implicit: bool
) -> None:
    with Relay(tls=certificates.server(), implicit=implicit, users={"app": "pw"}) as relay:
        login = {"username": "app", "password": "pw", "security": security, "ca_file": str(certificates.ca_file)}
        transport = connect(relay, **login)
        transport.send(mail(), Permission())
        transport.send(mail(), Permission())
        assert (relay.connections, len(relay.accepted)) == (1, 2)


@pytest.mark.parametrize(("security", "implicit"), [("starttls", False), ("tls", True)])
@pytest.mark.parametrize(("names", "trusted"), [(("other.example",), True), (("127.0.0.1",), False)])
def test_a_wrong_certificate_is_refused_before_anything_is_said(
    certificates: Certificates, connect: Connect, security: str, implicit: bool, names: tuple[str, ...], trusted: bool
) -> None:
    ca_file = {"ca_file": str(certificates.ca_file)} if trusted else {}
    with Relay(tls=certificates.server(*names), implicit=implicit, users={"app": "pw"}) as relay:
        relay.script.always("auth", "235 2.7.0 whoever you are")
        login = {"username": "app", "password": "pw", "security": security}
        with pytest.raises(DependencyDown, match=r"certificate.*smtp\.ca_file"):
            connect(relay, **login, **ca_file).send(mail(), Permission())
        assert not relay.accepted


def test_a_relay_without_starttls_gets_neither_the_password_nor_a_mail(relay: Relay, connect: Connect) -> None:
    with pytest.raises(DependencyDown, match="offers no STARTTLS"):
        connect(relay, security="starttls", username="app", password="pw").send(mail(), Permission())
    assert not relay.accepted


@pytest.mark.parametrize("step", ["454 4.7.0 no TLS now", Fault.DROP, "220 go on\r\n250 injected"])
def test_a_starttls_that_fails_is_down_for_everyone(
    certificates: Certificates, connect: Connect, step: str | Fault
) -> None:
    with Relay(tls=certificates.server()) as relay:
        relay.script.next("starttls", step)
        security = {"security": "starttls", "ca_file": str(certificates.ca_file)}
        if step == "220 go on\r\n250 injected":
            connect(relay, **security).send(mail(), Permission())  # what was said before TLS is forgotten
            assert len(relay.accepted) == 1
            return
        with pytest.raises(DependencyDown):
            connect(relay, **security).send(mail(), Permission())


@pytest.mark.parametrize(
    ("username", "password", "users"),
    [("app", "wrong", {"app": "pw"}), ("app", "", {"app": "pw"}), ("app", "wörng", {"app": "pw"}), ("app", "pw", {})],
)
def test_a_refused_login_is_down_for_everyone_and_says_where_to_look(
    connect: Connect, username: str, password: str, users: dict[str, str]
) -> None:
    with Relay(users=users) as relay:
        with pytest.raises(DependencyDown, match=r"smtp\.username") as refused:
            connect(relay, username=username, password=password).send(mail(), Permission())
        assert not password or password not in str(refused.value)


def test_a_ca_file_that_can_not_be_read_is_a_fault_of_the_settings(relay: Relay, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for file in ("gone.pem", "empty.pem"):
        with pytest.raises(ConfigInvalid, match=r"smtp\.ca_file"):
            Transport(settings(relay, security="tls", ca_file=str(tmp_path / file)))


# The probe


def test_a_probe_logs_in_and_sends_nothing(relay: Relay) -> None:
    probe(settings(relay))
    assert (relay.connections, relay.accepted) == (1, [])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"port": 1}, "Connection refused.*smtp.port"),
        ({"host": "nowhere.invalid", "security": "tls"}, "nowhere.invalid.*smtp.host"),
        ({"security": "tls"}, "TLS failed.*smtp.security"),
        ({"security": "starttls"}, "STARTTLS"),
        ({"username": "app", "password": "pw"}, "AUTH.*smtp.username"),
    ],
)
def test_a_probe_that_fails_says_what_mends_it(relay: Relay, given: dict[str, Any], says: str) -> None:
    with pytest.raises(DependencyDown, match=says):
        probe(settings(relay, **given))


def test_whoever_waits_for_a_connection_while_all_hang_gives_up_and_sends_nothing(
    relay: Relay, connect: Connect
) -> None:
    relay.script.next("dot", Fault.HANG)
    transport = connect(relay, USUAL._replace(turn_s=0.2), connections=1)
    with ThreadPoolExecutor(1) as threads:
        hangs = threads.submit(transport.send, mail(), Permission())
        until(lambda: relay.accepted, 10, "the dot to arrive")
        permission = Permission()
        with pytest.raises(Busy):
            transport.send(mail(), permission)
        assert permission.asked == 0
        relay.released.set()
        assert hangs.result(10)
        assert transport.send(mail(), Permission())
