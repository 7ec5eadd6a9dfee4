"""The MIME body that we write is the one that the email package reads."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumers.mail.mime import alternative

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.text("a .\r\n=-\t", max_size=99)


def normalised(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(TEXTS, TEXTS)
@example("a" * 1500, "é" * 1500)
@example("trailing blank \nand tab\t\n.\n..\nFrom me", "--=_\n--\n")
@example("Grüße, Jörg, wie immer in langen Zeilen " * 40, "مرحبا " * 300)
def test_what_is_written_is_read_back(text: str, html: str) -> None:
    mail = message_from_bytes(alternative(text, html), policy=policy.default)
    assert mail.get_content_type() == "multipart/alternative"
    assert not mail.defects
    plain, rich = mail.iter_parts()
    assert [plain.get_content_type(), rich.get_content_type()] == ["text/plain", "text/html"]
    assert [normalised(part.get_content()).rstrip("\n") for part in (plain, rich)] == [
        normalised(part).rstrip("\n") for part in (text, html)
    ]


@given(TEXTS, TEXTS)
@example("a" * 1500, "é" * 1500)
def test_any_relay_can_carry_it(text: str, html: str) -> None:
    content = alternative(text, html)
    assert content.isascii()
    assert max(len(line) for line in content.split(b"\r\n")) <= 998
    assert b"\r" not in content.replace(b"\r\n", b"")
    assert b"\n" not in content.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("Hello", "7bit"), ("Grüße an alle, die das lesen", "quoted-printable"), ("مرحبا", "base64")],
)
def test_no_more_is_encoded_than_must_be(text: str, encoding: str) -> None:
    mail = message_from_bytes(alternative(text, "x"), policy=policy.default)
    plain, _ = mail.iter_parts()
    assert plain["Content-Transfer-Encoding"] == encoding
