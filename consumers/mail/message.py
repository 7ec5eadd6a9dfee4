"""Build the bytes of a mail from what a template gave. Pure: the clock is passed in.

Nothing that a user supplied can add or change a header: what could is refused, and the finished header block is read
back. Headers and bodies are 7 bit, so that any relay takes them; only an address that is not ASCII asks for more.

Headers are encoded by email.header, as EmailMessage loses spaces where it folds long names that are not ASCII (3.11).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.header import Header
from email.utils import format_datetime, parseaddr, quote
from functools import cache

import email_validator
from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from cdc.runtime.errors import ConfigInvalid, MailRejected
from cdc.runtime.sections_mail import Smtp
from consumers.delivery import digest
from consumers.mail import mime

# We check the syntax. Whether a domain takes mail is for the relay to say, which may well know `corp.local`.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

#: Controls (CR, LF and NUL among them), lone surrogates, and the separators that str.splitlines takes for line ends.
_UNSAFE = frozenset(("Cc", "Cs", "Zl", "Zp"))
#: The email package decodes an encoded word where it reads one and writes what was in it: `=?UTF-8?Q?=0A?=` becomes a
#: new line, and with it a header (CVE-2024-6923). Without its beginning there is none.
_ENCODED_WORD = "=?"

#: Ten megabytes of a name would take minutes to fold, and no relay takes them.
_VALUE_MAX = 10_000
#: Longer ones are encoded even if they are ASCII: that folds them between words and within.
_HEADER_MAX = 60
_FOLD = re.compile(rb"\r\n[ \t]+(?=[^ \t\r\n])")
_FIELD = re.compile(rb"([!-9;-~]+): [^\r\n]*")
_WORDS = re.compile(r"[A-Za-z0-9]+(?: [A-Za-z0-9]+)*")
#: RFC 5321 4.5.3.1.1: what stands before the @. A user's may be longer: its own relay may take it.
_LOCAL_MAX = 64
#: The longest that a delivery can be named: numbers of the ledger have at most 19 digits.
_LONGEST_ID = f"{2**63 - 1}-{'f' * 10}"
_MIME = ("MIME-Version", "Content-Type")


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a template gave for one event."""

    subject: str
    text: str
    html: str
    lang: str  #: as HTML and Content-Language write it: de, de-AT
    template: str  #: hash of the template's sources


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom mails come from."""

    header: str
    envelope_from: str  #: where the relay sends bounces; may hold `{delivery}`
    domain: str  #: the right side of our Message-IDs


@dataclass(frozen=True, slots=True)
class Address:
    """An address that mail can be sent to."""

    recipient: str  #: its domain in ASCII and lower case
    needs_smtputf8: bool  #: RFC 6531: what stands before the @ is not ASCII

    @property
    def domain(self) -> str:
        """What stands after the @."""
        return self.recipient.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail to one recipient, ready to be transmitted."""

    envelope_from: str
    recipient: str  #: for RCPT TO; ASCII unless needs_smtputf8
    message_id: str  #: with its angle brackets
    content: bytes  #: header block and body, every line ends in CRLF
    needs_smtputf8: bool  #: RFC 6531: an address is not ASCII


def sender(smtp: Smtp) -> Sender:
    """Read the sender that settings name. Raises ConfigInvalid."""
    return _sender(smtp.sender, smtp.envelope_from)


@cache
def _sender(named: str, envelope_from: str) -> Sender:
    name, address = parseaddr(named)
    try:
        address = _ascii(_validate(address))
        _ascii(_validate(_with_delivery(envelope_from or address, _LONGEST_ID)))
    except (EmailNotValidError, ValueError) as exc:
        hint = "An address, in which {delivery} may stand before the @ of envelope_from: bounces+{delivery}@example.org"
        raise ConfigInvalid("smtp.sender or smtp.envelope_from holds no ASCII mail address", hint=hint) from exc
    header = _mailbox("From", _safe("sender", name), address)
    return Sender(header, envelope_from or address, address.rpartition("@")[2])


def bounce_id(delivery_id: int, message_id: str) -> str:
    """Name a delivery in the address that bounces come back to: its number in the ledger, and a check.

    Nothing of the user is in it; without the ledger nobody can make one up for a delivery that they guess.
    """
    return f"{delivery_id}-{message_id[1:11]}"


def _with_delivery(envelope_from: str, bounce: str) -> str:
    filled = envelope_from.replace("{delivery}", bounce)
    if "{" in filled or len(filled.rpartition("@")[0]) > _LOCAL_MAX:
        raise ValueError("{delivery} is the only name that is filled in, and is up to 30 characters long")
    return filled


def address(email: str | None) -> Address:
    """Read a user's address. Raises MailRejected, which never quotes it.

    Codes: no_address, address_invalid, header_unsafe, too_long.
    """
    found = _address(email)
    recipient = found.ascii_email or f"{found.local_part}@{found.ascii_domain}"
    return Address(recipient, needs_smtputf8=found.ascii_email is None)


def message_id(event_id: str, rule: str, target: str, domain: str) -> str:
    """Name a delivery's mail: the same in every attempt, and nothing of the user can be read from it."""
    return f"<{digest(event_id, rule, target)}@{domain}>"


def compose(
    rendered: Rendered,
    sender: Sender,
    to: Address,
    name: str | None,
    *,
    message_id: str,
    bounce: str = "",
    unsubscribe_url: str = "",
    now: datetime,
) -> Mail:
    """Build a mail. Raises MailRejected with a code, never with a value, when it can't be sent as it is.

    Codes: header_unsafe, too_long, body_unfit. `bounce` stands for `{delivery}` in the sender's envelope_from.
    """
    headers = {
        "From": sender.header,
        "To": _mailbox("To", _safe("name", (name or "").strip()), to.recipient),
        "Subject": _encoded("Subject", _safe("subject", rendered.subject)),
        "Date": format_datetime(now),
        "Message-ID": message_id,
        "Auto-Submitted": "auto-generated",  # RFC 3834 5: no vacation notice, no autoresponder may answer
        "Content-Language": rendered.lang,
        **_unsubscribe(unsubscribe_url),
    }
    content = _serialise(headers, mime.alternative(_fit(rendered.text), _fit(rendered.html)))
    envelope_from = _with_delivery(sender.envelope_from, bounce)
    return Mail(envelope_from, to.recipient, message_id, content, to.needs_smtputf8)


def _unsubscribe(url: str) -> dict[str, str]:
    """Let mail programs offer one click (RFC 8058). The relay's DKIM signature must cover both headers."""
    if not url:
        return {}
    return {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


def _address(email: str | None) -> ValidatedEmail:
    if not email or not email.strip():
        raise MailRejected("the user has no mail address", code="no_address", users_own=True)
    try:
        _safe("address", email.strip())
        return _validate(email.strip())
    except EmailNotValidError:
        # Not its text and not as the cause: it may quote the address.
        raise MailRejected("the user's address is no mail address", code="address_invalid", users_own=True) from None


def _validate(address: str) -> ValidatedEmail:
    return validate_email(address, check_deliverability=False, globally_deliverable=False)


def _ascii(address: ValidatedEmail) -> str:
    if address.ascii_email is None:
        raise ValueError("not ASCII before the @")
    return address.ascii_email


def _mailbox(header: str, name: str, address: str) -> str:
    """Write a name and an address (RFC 5322 3.4): the name quoted or encoded where it must be, the address as it is."""
    if not name:
        return address
    written = _encoded(header, name)
    if written == name and not _WORDS.fullmatch(name):
        written = f'"{quote(name)}"'
    return f"{written} <{address}>"


def _encoded(header: str, text: str) -> str:
    """Write text as encoded words (RFC 2047), folded, unless it can stand as it is."""
    if text.isascii() and len(text) <= _HEADER_MAX:
        return text
    return Header(text, "utf-8", header_name=header).encode(linesep="\r\n")


def _safe(part: str, value: str) -> str:
    if len(value) > _VALUE_MAX:
        message = f"the {part} is too long for a mail"
        raise MailRejected(message, code="too_long", part=part, users_own=part != "subject")
    if _ENCODED_WORD in value or any(unicodedata.category(character) in _UNSAFE for character in value):
        message = f"the {part} holds control characters or an encoded word"
        # A subject's may be the template's, for everyone.
        raise MailRejected(message, code="header_unsafe", part=part, users_own=part != "subject")
    return value


def _fit(body: str) -> str:
    """Refuse what no charset holds (half a surrogate pair) and what no mail may hold (NUL, RFC 5322 2.1)."""
    try:
        if b"\0" not in body.encode():
            return body
    except UnicodeEncodeError:
        pass
    raise MailRejected("the text holds characters that no mail can", code="body_unfit", users_own=True)


def _serialise(headers: Mapping[str, str], body: bytes) -> bytes:
    """Join headers and body and read the header block back: exactly what was meant, or nothing leaves."""
    content = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + body
    block, _, _ = content.partition(b"\r\n\r\n")
    if _names(block) != [*headers, *_MIME]:
        message = "the header block does not read back as it was meant"
        raise MailRejected(message, code="header_unsafe", users_own=True)
    return content


def _names(block: bytes) -> list[str]:
    """Read the names of a header block back, more strictly than anyone else does: nothing for what is none.

    The email package would do, and takes as long as all the rest of a mail.
    """
    # A line ends in CRLF; one that begins with a space goes on with the header before it (RFC 5322 2.2.3).
    lines = _FOLD.sub(b" ", block).split(b"\r\n")
    found = [_FIELD.fullmatch(line) for line in lines]
    return [field[1].decode() for field in found if field] if all(found) else []
