"""What a relay's refusal means, by code, enhanced code and step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.runtime.errors import Deferred, DependencyDown, MailRejected, RetryableError, ServiceError
from consumers.mail.reply import DOT, Reply, asked_s, names_nobody, refusal


def reply(line: str) -> Reply:
    return Reply(int(line[:3]), line[4:])


@pytest.mark.parametrize(
    ("step", "line", "error"),
    [
        # About this mail, for now.
        ("RCPT", "450 4.2.1 mailbox busy", Deferred),
        ("RCPT", "451 4.7.1 greylisted", Deferred),
        ("RCPT", "451 later", Deferred),
        ("DATA", "451 4.3.0 queue file write error", Deferred),
        (DOT, "451 4.3.0 later", Deferred),
        (DOT, "452 4.2.2 full", Deferred),
        # About this mail, for good.
        ("RCPT", "550 5.1.1 no such user", MailRejected),
        ("RCPT", "550 no such user", MailRejected),
        ("RCPT", "550 5.7.1 refused", MailRejected),
        ("RCPT", "556 5.1.10 takes no mail", MailRejected),
        ("DATA", "554 5.5.1 no", MailRejected),
        (DOT, "554 5.6.0 content", MailRejected),
        (DOT, "552 too big", MailRejected),
        (DOT, "552 5.3.4 too big", MailRejected),
        ("MAIL", "552 5.3.4 too big", MailRejected),
        ("MAIL", "552 too big", MailRejected),
        # A 5 that passes: RFC 3463's mailbox full, mail system, routing; RFC 5321's old 452; quotas.
        ("RCPT", "552 5.2.2 full", Deferred),
        ("RCPT", "552 full", Deferred),
        ("RCPT", "550 5.3.0 system", Deferred),
        ("RCPT", "550 5.4.4 no route", Deferred),
        (DOT, "554 5.7.0 quota", Deferred),
        ("RCPT", "550 4.7.1 class and code disagree", Deferred),
        # For everyone.
        ("connect", "421 4.3.2 closing", DependencyDown),
        ("connect", "554 5.7.1 not you", DependencyDown),
        ("EHLO", "502 no", DependencyDown),
        ("STARTTLS", "454 4.7.0 no TLS now", DependencyDown),
        ("AUTH", "535 5.7.8 wrong", DependencyDown),
        ("AUTH", "500 unknown", DependencyDown),
        ("MAIL", "530 5.7.0 authenticate first", DependencyDown),
        ("MAIL", "553 5.1.8 sender", DependencyDown),
        ("MAIL", "450 4.7.1 too many", DependencyDown),
        ("RCPT", "421 4.7.0 closing", DependencyDown),
        ("RCPT", "530 5.7.0 authenticate first", DependencyDown),
        ("RCPT", "503 5.5.1 MAIL first", DependencyDown),
        ("RCPT", "550 5.7.11 encrypt first", DependencyDown),
        ("RCPT", "452 4.3.1 relay is full", DependencyDown),
        (DOT, "454 Throttling failure: Maximum sending rate exceeded.", DependencyDown),
        (DOT, "421 4.3.2 closing", DependencyDown),
        # No answer at all.
        ("RCPT", "354 go on", DependencyDown),
        ("DATA", "250 2.0.0 not an answer to DATA", DependencyDown),
    ],
)
def test_a_refusal_is_about_the_mail_for_now_or_for_good_or_about_everyone(
    step: str, line: str, error: type[ServiceError]
) -> None:
    found = refusal(reply(line), step)
    assert type(found) is error
    assert found.fields["step"] == step


@pytest.mark.parametrize(
    ("step", "line", "nobody"),
    [
        ("RCPT", "550 5.1.1 no such user", True),
        (DOT, "550 5.1.1 no such user", True),
        ("RCPT", "551 5.1.6 moved", True),
        ("RCPT", "556 5.1.10 takes no mail", True),
        ("RCPT", "550 5.2.1 disabled", True),
        ("RCPT", "550 no such user", False),
        ("RCPT", "550 5.7.1 not wanted", False),
        ("RCPT", "553 5.1.3 what is that", False),
        ("RCPT", "550 5.1.2 no such domain", False),
        ("DATA", "554 5.1.1 what", False),
        (DOT, "554 5.6.0 unreadable", False),
        (DOT, "550 5.7.1 looks like spam", False),
    ],
)
def test_only_that_there_is_no_mailbox_says_that_no_mail_will_ever_arrive(step: str, line: str, nobody: bool) -> None:
    refused = refusal(reply(line), step)
    assert isinstance(refused, MailRejected)
    assert names_nobody(refused) is nobody


def test_a_refusal_says_its_codes_and_never_the_relays_text() -> None:
    found = refusal(reply("550 5.1.1 <ada@example.org>: Ada Lovelace is unknown here"), "RCPT")
    assert str(found) == "the relay refused RCPT: 550 5.1.1 (the address)"
    assert found.fields == {"code": "550 5.1.1", "step": "RCPT"}


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("4.7.1 Greylisted, try again in 300 seconds", 300),
        ("try again in 5 minutes", 300),
        ("4.7.1 please retry after 90s", 90),
        ("greylisted for 1 hour", 3600),
        ("deferred, in 10 min.", 600),
        ("4.7.0 come back in 2 hrs", 7200),
        ("4.7.1 Please wait 300 seconds", 300),
        ("4.7.1 retry after at least 20 minutes", 1200),
        ("4.2.0 greylisted, see you in 1 minute 30 seconds", 90),
        ("Greylisting in effect, please come back in 00:04:59", 299),
        ("rate limited, retry: 15s", 15),
        ("try again later", None),
        ("in 20 or so", None),
        ("in 10 messages", None),
        ("", None),
    ],
)
def test_a_relay_is_believed_how_long_to_wait(text: str, asked: float | None) -> None:
    assert asked_s(text) == asked
    found = refusal(Reply(451, text), "RCPT")
    assert isinstance(found, RetryableError)
    assert found.retry_after_s == asked


@given(
    code=st.integers(-1, 999), text=st.text(), step=st.sampled_from(["connect", "AUTH", "MAIL", "RCPT", "DATA", DOT])
)
def test_any_answer_is_classified(code: int, text: str, step: str) -> None:
    assert isinstance(refusal(Reply(code, text), step), Deferred | DependencyDown | MailRejected)


@given(text=st.text(max_size=300))
def test_an_answer_is_kept_in_one_printable_line_without_addresses(text: str) -> None:
    kept = str(Reply(250, f"2.0.0 Ok <ada@example.org> {text}"))
    assert kept.startswith("250 2.0.0 Ok <address>")
    assert kept.isprintable()
    assert len(kept) <= 200
    assert "@" not in kept.replace("<address>", "") or "@" in text
