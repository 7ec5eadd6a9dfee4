r"""Signed links in mails: bound to a user's key and address, and to a time. Pure but for itsdangerous' clock.

The token holds the key and a hash of the address: no address stands in a URL, in a proxy's log or in a Referer. It is
signed, not encrypted, and it can be used until it is too old: make its use idempotent, and do it on POST. Mail scanners
follow links, so a GET must show a button and change nothing.

An application needs itsdangerous only (`KEYS`: what `links.secret_file` names, oldest first):

    import json
    from hashlib import sha256
    from itsdangerous import BadData, URLSafeTimedSerializer

    links = URLSafeTimedSerializer(KEYS, salt="pgherald.verify")

    def verified_user(token):                                    # in the view of POST /verify, Flask's or Django's
        try:
            said = links.loads(token, max_age=48 * 3600)         # what links.max_age says
        except BadData:
            return None                                          # forged, damaged or too old
        user = User.query.get(json.loads(said["key"])["id"])     # or User.objects.filter(pk=...).first()
        if user and sha256(user.email.encode()).hexdigest() == said["address"]:
            return user                                          # the address is still the one that got the mail
        return None
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from itsdangerous import BadPayload, URLSafeSerializer, URLSafeTimedSerializer

from cdc.runtime.sections_mail import Links

#: One salt a purpose: a link for one thing is worth nothing for another.
VERIFY = "pgherald.verify"
UNSUBSCRIBE = "pgherald.unsubscribe"


class SignedUrl(str):
    """A link, and for how long it can be used."""

    max_age: timedelta
    expires_at: datetime

    def __new__(cls, url: str, max_age: timedelta, now: datetime) -> SignedUrl:
        """Make the link; a template writes it as text."""
        made = super().__new__(cls, url)
        made.max_age = max_age
        made.expires_at = now + max_age
        return made


def seen(settings: Links | None, key: str | None, email: str | None) -> dict[str, object]:
    """Give a template its `verify_url` where there is something to bind it to; a template that needs it fails else."""
    if settings is None or key is None or email is None:
        return {}
    return {"verify_url": verify_url(settings, key, email)}


def verify_url(links: Links, key: str, email: str) -> SignedUrl:
    """Make the link by which a user shows that they get mail at an address."""
    token = _signer(revealed(links)).dumps({"key": key, "address": address_hash(email)})
    text = token if isinstance(token, str) else token.decode()
    return SignedUrl(f"{links.base_url}?token={text}", links.max_age, datetime.now(UTC))


def revealed(links: Links) -> list[str]:
    """Give the secrets that links are signed with, newest first."""
    return [secret.get_secret_value() for secret in links.secret]


def unsubscribe_url(links: Links, address_hash: str) -> str:
    """Make the link by which an address unsubscribes: it holds the hash that the suppression list will, and no end.

    A mail may be found years later, and who has it may always say no.
    """
    token = URLSafeSerializer(list(reversed(revealed(links))), salt=UNSUBSCRIBE).dumps(address_hash)
    return f"{links.unsubscribe_base}?token={token if isinstance(token, str) else token.decode()}"


def unsubscribing(token: str, secrets: Sequence[str]) -> str:
    """Give the hash of the address that an unsubscribe link was made for. Raises itsdangerous.BadData."""
    said = URLSafeSerializer(list(reversed(secrets)), salt=UNSUBSCRIBE).loads(token)
    if not isinstance(said, str):
        raise BadPayload("not an unsubscribe link")
    return said


def check(
    token: str, secrets: Sequence[str], max_age: timedelta, *, key: str | None = None, email: str | None = None
) -> str:
    """Give the key that a verify link was made for; a given key and address must be the ones it is bound to.

    `secrets` newest first, as in settings. Raises itsdangerous.BadData: SignatureExpired when it is only too old.
    """
    said, address, _ = verifying(token, secrets, max_age)
    if key is not None and not _same(key, said):
        raise BadPayload("made for another user")
    if email is not None and not _same(address_hash(email), address):
        raise BadPayload("made for another address")
    return said


def verifying(token: str, secrets: Sequence[str], max_age: timedelta) -> tuple[str, str, str]:
    """Give the key and the hash of the address that a verify link was made for, and its identity. Raises as `check`.

    One link can be spelled in many ways that all verify (base64 has bits to spare); its identity is the same in each.
    """
    said, made_at = _signer(secrets).loads(token, max_age=int(max_age.total_seconds()), return_timestamp=True)
    if not isinstance(said, dict) or not {"key", "address"} <= said.keys():
        raise BadPayload("not a verify link")
    key, address = str(said["key"]), str(said["address"])
    return key, address, hashlib.sha256(f"{made_at.timestamp()}\0{address}\0{key}".encode()).hexdigest()


def address_hash(email: str) -> str:
    """Hash an address exactly as its column holds it."""
    return hashlib.sha256(email.encode()).hexdigest()


def _signer(secrets: Sequence[str]) -> URLSafeTimedSerializer:
    """Sign with the newest secret and accept all: itsdangerous wants the newest last."""
    return URLSafeTimedSerializer(list(reversed(secrets)), salt=VERIFY)


def _same(one: str, other: object) -> bool:
    return hmac.compare_digest(one.encode(), str(other).encode())
