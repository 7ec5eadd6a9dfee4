"""What looks secret stays home."""

import hashlib
import hmac
import re
from pathlib import Path

import pytest

from cdc.privacy import SECRET_PAIRS, SECRET_WORDS, Treatment, guard, looks_secret, treatment
from cdc.runtime.fields import TableName
from cdc.runtime.sections import SourceTable
from cdc.values import codec


@pytest.mark.parametrize(
    "column",
    ["password", "Password", "password_hash", "passwordHash", "hashed_password", "pwd", "userpassword", "PASSWD"]
    + ["reset_token", "resetToken", "tokens", "APIKey", "api_key", "secret", "clientSecret", "otp_secret", "salt"]
    + [
        "encrypted_password",
        "reset_password_token",
        "private_key",
        "session_id",
        "recovery_codes",
        "pin",
        "fs_uniquifier",
        "user_pass",
        "user_activation_key",
        "two_factor_recovery_codes",
        "SecurityStamp",
    ],
)
def test_columns_like_these_look_secret(column: str) -> None:
    assert looks_secret(column)


@pytest.mark.parametrize(
    "column",
    ["id", "email", "username", "photoURL", "siteAdmin", "last_login_ip", "created_at", "keynote", "passenger"]
    + ["pinned", "spinner", "plan", "compass", "mfa_enabled", "key", "public_key", "hashtag", "shipping", "code"],
)
def test_columns_like_these_do_not(column: str) -> None:
    assert not looks_secret(column)


def table(**said: list[str]) -> SourceTable:
    return SourceTable(name=TableName("public", "users"), **said)


def test_what_the_settings_say_wins_over_the_look() -> None:
    assert treatment(table(), "password") is Treatment.DROP
    assert treatment(table(allow=["password"]), "password") is Treatment.KEEP
    assert treatment(table(hash=["token"]), "token") is Treatment.HASH
    assert treatment(table(mask=["token"]), "token") is Treatment.MASK
    assert treatment(table(exclude=["email"]), "email") is Treatment.DROP
    assert treatment(table(exclude=["email"], allow=["email"]), "email") is Treatment.DROP


def test_a_hash_is_the_same_from_the_wal_and_from_copy() -> None:
    hashed = guard(codec("text"), Treatment.HASH, b"key")
    expected = hmac.new(b"key", "a\té".encode(), hashlib.sha256).hexdigest()
    assert hashed.from_text("a\té") == f'"{expected}"'.encode()
    assert hashed.from_token is not None
    assert hashed.from_token('"a\\té"'.encode()) == hashed.from_text("a\té")


@pytest.mark.parametrize(
    ("type_name", "text", "token"),
    [
        ("boolean", "t", b"true"),
        ("boolean", "f", b"false"),
        ("bytea", "\\xdead", b'"dead"'),
        ("numeric", "0.10", b"0.10"),
        ("double precision", "1e+20", b"1e+20"),
        ("bit(1)", "1", b'"1"'),
        ("text[]", "{a,NULL}", b'"{a,NULL}"'),
    ],
)
@pytest.mark.parametrize("treatment", [Treatment.HASH, Treatment.MASK])
def test_what_is_hashed_or_masked_is_the_same_text_both_ways(
    treatment: Treatment, type_name: str, text: str, token: bytes
) -> None:
    guarded = guard(codec(type_name), treatment, b"key")
    assert guarded.from_token is not None
    assert guarded.from_token(token) == guarded.from_text(text)


def test_a_mask_keeps_the_length_only() -> None:
    assert guard(codec("text"), Treatment.MASK, b"").from_text("héllo") == b'"*****"'


def test_the_runbook_names_what_looks_secret_no_more_and_no_less() -> None:
    runbook = Path("deploy/RUNBOOK.md").read_text()
    said = " ".join(runbook[runbook.index("## What stays home") :].split())
    listed = re.search(
        r"holds one of: ([^;]+); or a pair of them: ([^;]+); or when it contains (.+?) run together", said
    )
    assert listed
    words, pairs, stems = (re.split(r", | or ", part) for part in listed.groups())
    assert sorted(words) == sorted(SECRET_WORDS)
    assert sorted(pairs) == sorted(SECRET_PAIRS)
    assert [stem for stem in stems if not looks_secret(f"x{stem}x")] == []
