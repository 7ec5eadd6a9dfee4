"""What a relay's refusal means: for this mail, for now, or for everyone. Pure.

The reply's code and enhanced code decide (RFC 5321 4.2, RFC 3463, the registry of RFC 5248), and the step of the
dialogue: up to MAIL nothing was said about the recipient, so what is refused there is refused to everyone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cdc.runtime.errors import Deferred, DependencyDown, MailRejected, ServiceError

#: The step whose answer decides what became of a mail.
DOT = "the mail"
#: What smtplib too gives for a line that is no reply.
NO_CODE = -1

#: The relay shuts down or throttles us (421, 454), lost the thread of the dialogue (503), or does not accept how we log
#: in (530, 534, 535, 538).
_FOR_EVERYONE = frozenset((421, 432, 454, 503, 530, 534, 535, 538))
#: The same, by enhanced code without its class: the relay is full or closing (RFC 3463 3.4), or wants authentication or
#: encryption that we did not give (RFC 5248: X.7.8 to X.7.13).
_SYSTEM_DOWN = frozenset(("3.1", "3.2", "7.8", "7.9", "7.10", "7.11", "7.12", "7.13"))
#: Refusals with a 5 that pass nonetheless: a full mailbox (RFC 3463 3.3), faults of a mail system or of a route, not of
#: the mail (3.4, 3.5; 5.3.4 is the exception: too big), and quotas, which some relays give as 5.7.0.
_PASSES = re.compile(r"2\.2|3\.(?!4$)\d+|4\.\d+|7\.0")
#: RFC 5321 4.5.3.1.10: at RCPT this is the old way to say 452.
_STORAGE = 552

#: No such mailbox, moved without a new address, takes no mail at all (RFC 7505), disabled (RFC 3463 3.2, 3.3).
_GONE = frozenset(("1.1", "1.6", "1.10", "2.1"))

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\b")
_ASKED = re.compile(
    r"\b(?:in|after|for|wait|within|another|least|delay(?:ed)?|retry)[ :=]{1,2}(?:about |at least |another )?"
    r"(\d{1,6})[ -]?(s|m|h)(?:ec(?:ond)?s?|in(?:ute)?s?|ours?|rs?)?\b"
    r"(?:(?:,| and)? ?(\d{1,4}) ?(s|m)(?:ec(?:ond)?s?|in(?:ute)?s?)?\b)?",
    re.IGNORECASE,
)
#: postgrey and others: `try again in 00:04:59`.
_ASKED_CLOCK = re.compile(r"\b(?:in|after|for|wait) (\d{1,2}):(\d\d):(\d\d)\b", re.IGNORECASE)
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_ADDRESS = re.compile(r"<?[^\s<>]*@[^\s<>]*>?")
_SUBJECTS = {
    "1": "the address",
    "2": "the mailbox",
    "3": "the mail system",
    "4": "the route",
    "5": "the dialogue",
    "6": "the content",
    "7": "policy",
}


class Reply(NamedTuple):
    """A relay's answer."""

    code: int
    text: str

    @property
    def enhanced(self) -> str:
        """The enhanced status code, if there is one: 4.7.1."""
        match = _ENHANCED.match(self.text)
        return match[1] if match else ""

    @property
    def codes(self) -> str:
        """Both codes, as a log shows them: 450 4.7.1."""
        return f"{self.code} {self.enhanced}".rstrip()

    def __str__(self) -> str:
        """Write the answer in one line, without any address that it quotes."""
        printable = "".join(character if character.isprintable() else " " for character in self.text)
        return f"{self.code} {' '.join(_ADDRESS.sub('<address>', printable).split())}"[:200]


def refusal(reply: Reply, step: str) -> ServiceError:
    """Classify an answer that is not the hoped-for one. Its text may quote the user, so no error holds it."""
    if not 400 <= reply.code <= 599:
        return DependencyDown(f"the relay's answer to {step} is none", step=step)
    message, codes = f"the relay refused {step}: {reply.codes}{_about(reply)}", reply.codes
    if _is_for_everyone(reply, step):
        hint = _hint(reply, step)
        return DependencyDown(message, hint=hint, retry_after_s=asked_s(reply.text), code=codes, step=step)
    if reply.code < 500 or reply.enhanced.startswith("4") or _passes(reply, step):
        return Deferred(message, retry_after_s=asked_s(reply.text), code=codes, step=step)
    return MailRejected(message, code=codes, step=step)


def names_nobody(refused: MailRejected) -> bool:
    """Tell whether a refusal says that there is no such mailbox any more: mail to it would be refused every time.

    Not that a domain is not found (X.1.2): a relay's broken resolver says so of all. Not what a plain 550 says: it may
    be about policy or content.
    """
    _, _, enhanced = str(refused.fields.get("code")).partition(" ")
    return refused.fields.get("step") in ("RCPT", DOT) and enhanced[2:] in _GONE


def asked_s(text: str) -> float | None:
    """Read how long a relay asks to wait: `try again in 300 seconds`, `greylisted for 5 minutes`."""
    if clock := _ASKED_CLOCK.search(text):
        return int(clock[1]) * 3600.0 + int(clock[2]) * 60.0 + int(clock[3])
    if match := _ASKED.search(text):
        amounts = ((match[1], match[2]), (match[3], match[4]))
        return sum(int(count) * _UNIT_S[unit.lower()] for count, unit in amounts if count)
    return None


def _is_for_everyone(reply: Reply, step: str) -> bool:
    if reply.code in _FOR_EVERYONE or reply.enhanced[2:] in _SYSTEM_DOWN:
        return True
    # MAIL names our sender and the mail's size; a size that does not fit (552, X.3.4) is this mail's own.
    return step not in ("RCPT", "DATA", DOT) and not (step == "MAIL" and _is_too_big(reply))


def _is_too_big(reply: Reply) -> bool:
    return reply.code == _STORAGE or reply.enhanced.endswith(".3.4")


def _passes(reply: Reply, step: str) -> bool:
    if not reply.enhanced:
        return step == "RCPT" and reply.code == _STORAGE
    return _PASSES.fullmatch(reply.enhanced[2:]) is not None


def _about(reply: Reply) -> str:
    subject = _SUBJECTS.get(reply.enhanced[2:3])
    return f" ({subject})" if subject else ""


def _hint(reply: Reply, step: str) -> str:
    if reply.code in (530, 534, 535, 538) or step == "AUTH":
        return "See smtp.username, smtp.password_file and smtp.security"
    if step == "MAIL" and reply.code >= 500:
        return "The relay may not take smtp.sender or smtp.envelope_from from us"
    return ""
