"""From what a template gave to the bytes of a mail: nothing that a user supplied adds or changes a header."""

from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes, message_from_string, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses, parseaddr
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc.runtime.errors import ConfigInvalid, MailRejected
from cdc.runtime.sections_mail import Smtp
from consumers.mail import message
from consumers.mail.message import Mail, Rendered, Sender, compose, message_id

NOW = datetime(2026, 11, 23, 20, 46, tzinfo=UTC)
RENDERED = Rendered("Welcome", "Hello\n", "<p>Hello</p>\n", "en", "0123456789ab")
HEADERS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "Content-Language",
    "MIME-Version",
    "Content-Type",
}
ENCODED_WORD = "=?UTF-8?Q?=0A?=Bcc: eve@example.org"
anything = st.text(st.characters(codec=None, exclude_categories=()), max_size=300)
pieces = st.lists(
    st.sampled_from(
        ["=?UTF-8?Q?=0A?=", "=?utf-8?b?Cg==?=", "\r\nBcc: e@x.org", "\n", ",", '"', "<e@x.org>", "é", "Ada", " "]
    )
)
hostile = anything | pieces.map("".join)


def smtp(**given: Any) -> Smtp:
    return Smtp.model_validate({"host": "127.0.0.1", "sender": "Badgeyay <no-reply@example.org>"} | given)


def composed(
    email: str | None = "ada@example.org",
    name: str | None = "Ada",
    sender: Sender | None = None,
    **rendered: str,
) -> Mail:
    parts = {
        "subject": "Welcome",
        "text": "Hello\n",
        "html": "<p>Hello</p>\n",
        "lang": "en",
        "template": "0123456789ab",
    }
    return compose(
        Rendered(**(parts | rendered)),
        sender or message.sender(smtp()),
        message.address(email),
        name,
        message_id="<0f@example.org>",
        now=NOW,
    )


def attempted(**given: Any) -> Mail | MailRejected:
    try:
        return composed(**given)
    except MailRejected as exc:
        return exc


def read(mail: Mail) -> EmailMessage:
    """Read a mail as its recipient does."""
    found = message_from_string(mail.content.decode().replace("\r\n", "\n"), policy=policy.default)
    assert isinstance(found, EmailMessage)
    return found


def decoded(mail: Mail, name: str, part: Callable[[str], str] = str) -> str:
    """Decode a header as RFC 2047 says; email.policy.default of 3.11 puts spaces between encoded words of a name."""
    unfolded = "".join(str(message_from_bytes(mail.content)[name]).splitlines())
    return str(make_header(decode_header(part(unfolded))))


def test_a_mail_has_these_headers_and_a_text_before_its_html() -> None:
    found = read(composed(name="Dörte Müller", subject="Schön", lang="de-AT"))
    assert set(found.keys()) == HEADERS
    assert found["From"] == "Badgeyay <no-reply@example.org>"
    assert found["To"] == "Dörte Müller <ada@example.org>"
    assert found["Subject"] == "Schön"
    assert found["Date"].datetime == NOW
    assert found["Auto-Submitted"] == "auto-generated"
    assert found["Content-Language"] == "de-AT"
    assert found.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in found.iter_parts()] == ["text/plain", "text/html"]
    assert [part.get_content() for part in found.iter_parts()] == ["Hello\n", "<p>Hello</p>\n"]


@given(text=st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=3000))
def test_any_text_arrives_in_seven_bits_and_lines_that_smtp_takes(text: str) -> None:
    mail = composed(text=text)
    assert mail.content.isascii()
    assert b"\0" not in mail.content
    lines = mail.content.split(b"\r\n")
    assert all(len(line) <= 998 and b"\r" not in line and b"\n" not in line for line in lines)
    part = read(mail).get_body(("plain",))
    assert part is not None
    assert part.get_content().replace("\r\n", "\n").rstrip("\n") == text.rstrip("\n")


@given(name=hostile, subject=hostile)
@example(name=ENCODED_WORD, subject="Welcome")
@example(name="Ada", subject=ENCODED_WORD)
@example(name="Ada\u2028Bcc: eve@example.org", subject="Welcome\x85Bcc: eve@example.org")
@example(name="Ada <eve@example.org>, Bob", subject="Hello, <eve@example.org>")
@example(name="Александр Константинопольский", subject="Ж" * 300)
def test_a_name_or_subject_is_refused_or_arrives_as_it_is_and_adds_no_header(name: str, subject: str) -> None:
    mail = attempted(name=name, subject=subject.strip())
    if isinstance(mail, MailRejected):
        assert mail.fields["code"] == "header_unsafe"
        assert len(name.strip()) < 4 or name.strip() not in str(mail)
        return
    assert set(message_from_bytes(mail.content).keys()) == HEADERS
    assert len(message_from_bytes(mail.content).keys()) == len(HEADERS)
    assert [address for _, address in getaddresses([str(read(mail)["To"])])] == ["ada@example.org"]
    assert decoded(mail, "Subject") == subject.strip()
    assert decoded(mail, "To", lambda value: parseaddr(value)[0]).split() == name.split()


@pytest.mark.parametrize(("part", "users_own"), [("name", True), ("subject", False)])
def test_what_would_take_minutes_to_fold_is_refused_at_once(part: str, users_own: bool) -> None:
    refused = attempted(**{part: "B" * 10_001})
    assert isinstance(refused, MailRejected)
    assert (refused.fields["code"], refused.fields["users_own"]) == ("too_long", users_own)
    with pytest.raises(MailRejected, match="the address is too long"):
        message.address("a" * 10_000 + "@example.org")


@given(email=hostile | st.emails() | st.tuples(hostile, hostile).map("@".join))
@example(email="ada@example.org\r\nBcc: eve@example.org")
@example(email="=?utf-8?q?ada@example.org")
@example(email="ada@example.org, eve@example.org")
@example(email="ada@example.org>\nRCPT TO:<eve@example.org")
def test_an_address_is_refused_or_is_the_only_recipient(email: str) -> None:
    mail = attempted(email=email)
    if isinstance(mail, MailRejected):
        assert mail.fields["code"] in ("no_address", "address_invalid", "header_unsafe")
        assert mail.__cause__ is None
        return
    assert set(message_from_bytes(mail.content).keys()) == HEADERS
    assert [(str(each)) for each in read(mail)["To"].addresses] == [f"Ada <{mail.recipient}>"]
    assert mail.needs_smtputf8 is not mail.recipient.isascii()
    assert not set(mail.recipient) & set(" \r\n<>")


@pytest.mark.parametrize(
    ("email", "code"),
    [
        (None, "no_address"),
        ("", "no_address"),
        ("  ", "no_address"),
        ("ada", "address_invalid"),
        ("ada@", "address_invalid"),
        ("Ada <ada@example.org>", "address_invalid"),
        ('"ada lovelace"@example.org', "address_invalid"),
        ("ada@[127.0.0.1]", "address_invalid"),
        ("a" * 320 + "@example.org", "address_invalid"),
        ("ada\0@example.org", "header_unsafe"),
        ("ada@example.org\nBcc: eve@example.org", "header_unsafe"),
    ],
)
def test_what_is_no_address_is_refused_without_quoting_it(email: str | None, code: str) -> None:
    with pytest.raises(MailRejected) as refused:
        composed(email)
    assert refused.value.fields["code"] == code
    assert not email or not email.strip() or email not in str(refused.value)


@pytest.mark.parametrize(
    ("email", "recipient", "needs_smtputf8"),
    [
        ("ada@example.org", "ada@example.org", False),
        (" ada@Example.ORG ", "ada@example.org", False),
        ("ada@bücher.example", "ada@xn--bcher-kva.example", False),
        ("dörte@example.org", "dörte@example.org", True),
        ("用户@例子.公司", "用户@xn--fsqu00a.xn--55qx5d", True),
        ("ada@mail.local", "ada@mail.local", False),
        ("a" * 64 + "@" + ".".join(["b" * 60] * 3) + ".org", "a" * 64 + "@" + ".".join(["b" * 60] * 3) + ".org", False),
    ],
)
def test_domains_are_written_in_ascii_and_only_a_local_part_needs_smtputf8(
    email: str, recipient: str, needs_smtputf8: bool
) -> None:
    mail = composed(email)
    assert (mail.recipient, mail.needs_smtputf8) == (recipient, needs_smtputf8)
    assert read(mail)["To"].addresses[0].addr_spec == recipient


@pytest.mark.parametrize("body", ["Hello\0", "Hello \ud800"])
@pytest.mark.parametrize("part", ["text", "html"])
def test_a_body_that_no_mail_can_hold_is_refused(part: str, body: str) -> None:
    with pytest.raises(MailRejected) as refused:
        composed(text=body) if part == "text" else composed(html=body)
    assert refused.value.fields["code"] == "body_unfit"


def test_a_message_id_is_the_same_in_every_attempt_and_another_for_another_delivery() -> None:
    same = [message_id("app:1:ff:3", "welcome", "welcome", "example.org") for _ in range(2)]
    others = {
        message_id("app:1:ff:4", "welcome", "welcome", "example.org"),
        message_id("app:1:ff:3", "verify", "welcome", "example.org"),
        message_id("app:1:ff:3", "welcome", "verify", "example.org"),
        message_id("app:1:ff:3w", "elcome", "welcome", "example.org"),
    }
    assert same[0] == same[1]
    assert len(others - {same[0]}) == 4
    assert same[0].startswith("<")
    assert same[0].endswith("@example.org>")


def test_a_long_sender_domain_leaves_the_message_id_whole() -> None:
    domain = ".".join(["a" * 60] * 4)
    sender = message.sender(smtp(sender=f"A <a@{domain}>"))
    identity = message_id("app:1:ff:3", "welcome", "welcome", sender.domain)
    mail = compose(RENDERED, sender, message.address("ada@example.org"), None, message_id=identity, now=NOW)
    assert str(message_from_bytes(mail.content)["Message-ID"]).strip() == identity


def test_bounces_go_to_envelope_from_or_else_to_the_sender() -> None:
    assert composed().envelope_from == "no-reply@example.org"
    sender = message.sender(smtp(envelope_from="bounces@example.org"))
    assert composed(sender=sender).envelope_from == "bounces@example.org"


def test_a_bounce_names_its_delivery_and_nothing_of_the_user() -> None:
    sender = message.sender(smtp(envelope_from="bounces+{delivery}@example.org"))
    identity = message_id("app:1:ff:3", "welcome", "welcome", "example.org")
    bounce = message.bounce_id(4711, identity)
    to = message.address("ada@example.org")
    mail = compose(RENDERED, sender, to, "Ada", message_id=identity, bounce=bounce, now=NOW)
    assert mail.envelope_from == f"bounces+4711-{identity[1:11]}@example.org"
    assert b"bounces+" not in mail.content


def test_a_mail_that_one_may_unsubscribe_from_says_so_in_both_headers_and_no_other_does() -> None:
    to, sender = message.address("ada@example.org"), message.sender(smtp())
    url = "https://app.example.org/unsubscribe?token=" + "t" * 300
    found = read(compose(RENDERED, sender, to, "Ada", message_id="<0f@x>", unsubscribe_url=url, now=NOW))
    assert set(found.keys()) == HEADERS | {"List-Unsubscribe", "List-Unsubscribe-Post"}
    assert found["List-Unsubscribe"] == f"<{url}>"
    assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


@pytest.mark.parametrize(
    "settings",
    [
        {"sender": "Badgeyay"},
        {"sender": "Badgeyay <>"},
        {"sender": "dörte@example.org"},
        {"sender": "a{delivery}@example.org", "envelope_from": "b{}@example.org"},
        {"envelope_from": "bounces"},
        {"envelope_from": "bounces+{id}@example.org"},
        {"envelope_from": "bounces+{delivery}"},
        {"envelope_from": "a" * 40 + "+{delivery}@example.org"},
    ],
)
def test_a_sender_without_an_ascii_address_is_a_fault_of_the_settings(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigInvalid):
        message.sender(smtp(**settings))
