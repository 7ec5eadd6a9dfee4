"""Signed links: bound to a key, an address and a time."""

import json
from datetime import timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import BadData, BadPayload, BadSignature, SignatureExpired, URLSafeTimedSerializer

from cdc.runtime.sections_mail import Links
from consumers.mail.links import check, seen, unsubscribe_url, unsubscribing, verify_url

KEY, EMAIL = '{"id":"a"}', "ada@example.org"
AGE = timedelta(hours=48)


def links(*secrets: str) -> Links:
    given: dict[str, Any] = {"base_url": "https://app.example.org/verify", "secret": list(secrets or ("new",))}
    return Links.model_validate(given)


def token(url: str) -> str:
    (found,) = parse_qs(urlsplit(url).query)["token"]
    return found


def test_a_link_leads_to_the_base_url_and_gives_back_the_key() -> None:
    url = verify_url(links(), KEY, EMAIL)
    assert url.startswith("https://app.example.org/verify?token=")
    assert check(token(url), ["new"], AGE, key=KEY, email=EMAIL) == KEY
    assert (url.max_age, url.expires_at.utcoffset()) == (AGE, timedelta())


@given(key=st.text(st.characters(exclude_categories=["Cs"])), email=st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_the_key_and_the_address_the_link_is_a_url_that_reads_back(key: str, email: str) -> None:
    url = verify_url(links(), key, email)
    assert url.isascii()
    assert check(token(url), ["new"], AGE, key=key, email=email) == key


def test_no_address_stands_in_the_url() -> None:
    said = URLSafeTimedSerializer(["new"], salt="pgherald.verify").loads(token(verify_url(links(), KEY, EMAIL)))
    assert "ada" not in json.dumps(said)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"key": '{"id":"b"}'}, BadPayload),
        ({"email": "eve@example.org"}, BadPayload),
        ({"email": "Ada@example.org"}, BadPayload),
        ({"secrets": ["other"]}, BadSignature),
        ({"max_age": timedelta(seconds=-1)}, SignatureExpired),
    ],
)
def test_another_user_address_secret_or_a_later_time_is_refused(given: dict[str, Any], error: type[BadData]) -> None:
    made = token(verify_url(links(), KEY, EMAIL))
    asked: dict[str, Any] = {"secrets": ["new"], "max_age": AGE, "key": KEY, "email": EMAIL} | given
    with pytest.raises(error):
        check(made, asked.pop("secrets"), asked.pop("max_age"), **asked)


@pytest.mark.parametrize("payload", ["text", [1], {"key": "a"}])
def test_something_else_that_was_signed_with_the_same_secret_is_refused(payload: Any) -> None:
    with pytest.raises(BadPayload):
        check(str(URLSafeTimedSerializer(["new"], salt="pgherald.verify").dumps(payload)), ["new"], AGE)
    with pytest.raises(BadSignature):
        check(str(URLSafeTimedSerializer(["new"], salt="pgherald.unsubscribe").dumps(payload)), ["new"], AGE)


def test_the_newest_secret_signs_and_the_older_ones_are_still_taken() -> None:
    old, both = verify_url(links("old"), KEY, EMAIL), verify_url(links("new", "old"), KEY, EMAIL)
    assert check(token(old), ["new", "old"], AGE) == KEY
    assert check(token(both), ["new"], AGE) == KEY
    with pytest.raises(BadSignature):
        check(token(both), ["old"], AGE)


def test_an_application_checks_a_link_with_itsdangerous_alone() -> None:
    application = URLSafeTimedSerializer(["old", "new"], salt="pgherald.verify")
    said = application.loads(token(verify_url(links("new", "old"), KEY, EMAIL)), max_age=48 * 3600)
    assert json.loads(said["key"])["id"] == "a"
    assert sha256(EMAIL.encode()).hexdigest() == said["address"]


def test_an_unsubscribe_link_holds_a_hash_and_no_end_and_is_worth_nothing_for_another_purpose() -> None:
    url = unsubscribe_url(links("new", "old"), "0f" * 32)
    assert url.startswith("https://app.example.org/unsubscribe?token=")
    assert unsubscribing(token(url), ["newer", "new"]) == "0f" * 32
    for made, secrets in ((token(url), ["other"]), (token(verify_url(links(), KEY, EMAIL)), ["new"])):
        with pytest.raises(BadData):
            unsubscribing(made, secrets)
    with pytest.raises(BadData):
        check(token(url), ["new"], AGE)


@pytest.mark.parametrize(
    ("base", "given", "leads_to"),
    [
        ("https://app.example.org", "", "https://app.example.org/unsubscribe"),
        ("https://app.example.org/a/verify", "", "https://app.example.org/a/unsubscribe"),
        ("https://app.example.org/a/verify/", "", "https://app.example.org/a/verify/unsubscribe"),
        ("https://app.example.org/verify", "https://no.example.org/out", "https://no.example.org/out"),
    ],
)
def test_unsubscribe_links_lead_beside_verify_links_unless_said_otherwise(base: str, given: str, leads_to: str) -> None:
    made = Links.model_validate({"base_url": base, "secret": "s", "unsubscribe_url": given})
    assert unsubscribe_url(made, "0f").partition("?")[0] == leads_to


@pytest.mark.parametrize(
    ("settings", "key", "email"), [(None, KEY, EMAIL), (links(), None, EMAIL), (links(), KEY, None)]
)
def test_a_template_sees_no_link_where_there_is_nothing_to_bind_it_to(
    settings: Links | None, key: str | None, email: str | None
) -> None:
    assert seen(settings, key, email) == {}
    assert list(seen(links(), KEY, EMAIL)) == ["verify_url"]
