"""Which columns leave the reader, which leave hashed or masked, and what looks secret. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from enum import Enum

from cdc.runtime.sections import SourceTable
from cdc.values import Codec, of_text

#: A column whose name holds one of these as a word or a run of words never leaves unless `allow` names it. The list is
#: documented in deploy/RUNBOOK.md; it may grow in any release, which a CHANGELOG line then says.
SECRET_WORDS = frozenset(
    """
    password passwd passphrase passcode pass pwd pin secret token otp totp salt hash digest credential uniquifier
    apikey privatekey accesskey authkey sessionkey cookie jwt cvv cvc
    """.split()
)
SECRET_PAIRS = (
    *("api key", "private key", "access key", "auth key", "session key", "session id"),
    *("activation key", "reset key", "signing key", "encryption key", "security stamp"),
    *("recovery code", "backup code", "reset code", "verification code", "activation code", "confirmation code"),
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Treatment(Enum):
    """What happens to a column before it leaves."""

    KEEP = "keep"
    DROP = "drop"
    HASH = "hash"
    MASK = "mask"


def looks_secret(column: str) -> bool:
    """Tell whether a column's name says that its values are nobody's business: `passwordHash`, `reset_token`."""
    words = [word.lower() for word in _WORD.findall(column)]
    joined = " ".join(words)
    if any(word.rstrip("s") in SECRET_WORDS or word in SECRET_WORDS for word in words):
        return True
    # Names written in one go: userpassword, resettoken.
    run_together = any(stem in word for word in words for stem in ("passw", "passwd", "secret", "token"))
    return run_together or any(pair in joined for pair in SECRET_PAIRS)


def treatment(table: SourceTable, column: str) -> Treatment:
    """Read what the settings say of a column; what looks secret is dropped unless allowed, hashed or masked by name."""
    if column in table.exclude:
        return Treatment.DROP
    if column in table.hash:
        return Treatment.HASH
    if column in table.mask:
        return Treatment.MASK
    return Treatment.DROP if looks_secret(column) and column not in table.allow else Treatment.KEEP


def guard(codec: Codec, treatment: Treatment, hash_key: bytes) -> Codec:
    """Put a treatment in front of a codec. Hashes are HMAC-SHA256 in hex of PostgreSQL's text of the value."""
    if treatment is Treatment.HASH:
        return of_text(
            lambda text: b'"' + hmac.new(hash_key, text.encode(), hashlib.sha256).hexdigest().encode() + b'"',
            codec.text,
        )
    if treatment is Treatment.MASK:
        return of_text(lambda text: b'"' + b"*" * len(text) + b'"', codec.text)
    return codec
