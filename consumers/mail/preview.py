"""See and check mails before users do: every template in every locale, against its sample, with no server.

A sample is JSON: `{"locale": ..., "before": null, "after": {row}}`, and `user` if its columns are other than settings'.
"""

from __future__ import annotations

import re
import webbrowser
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from html.parser import HTMLParser
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import cast
from urllib.parse import urlsplit

import click
import msgspec
from pydantic import SecretStr

from cdc.contract.envelope import Envelope, Op, Row, Source
from cdc.runtime.errors import ConfigInvalid, MailRejected, ServiceError, TemplateInvalid
from cdc.runtime.sections import User
from cdc.runtime.sections_mail import Links, Smtp
from cdc.runtime.settings import Settings
from consumers.mail import links, message
from consumers.mail.message import Mail, Rendered
from consumers.mail.render import Renderer, negotiate
from consumers.mail.suppression import address_hash
from consumers.rules import SeenUser, names

#: Gmail cuts off what is longer.
HTML_MAX_BYTES = 102 * 1024

#: What people call themselves, or try to.
HOSTILE_NAMES = {
    "holds an encoded word": "=?UTF-8?Q?=0A?=Bcc: eve@example.org",
    "holds line ends": "Ada\r\nBcc: eve@example.org",
    "is markup": "<script>alert(1)</script>",
    "is a template": "{{ 7 * 7 }}{% include 'sample.json' %}",
    "runs from right to left": "\u202eمحمد بن موسى الخوارزمي",
    "has 200 characters": "Ada Lovelace, Countess. " * 9,
    "is emoji": "👩🏽‍💻🇩🇪",
    "is empty": "",
    "is missing": None,
}

#: Attributes that lead elsewhere or load something.
_LINKING = ("href", "src", "action", "formaction", "background", "poster")
#: What mail programs make a link of in a text.
_URL = re.compile(r"https?://[^\s<>\"]+", re.IGNORECASE)

#: Stand in where settings have no such section and no rule sends the template.
_SMTP = Smtp(host="localhost", sender="Preview <preview@example.org>")
_LINKS = Links(base_url="https://example.org/verify", secret=[SecretStr("preview")])


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row change to try a template with."""

    locale: str = ""
    before: Row | None = None
    after: Row | None = None
    user: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a mail will be."""

    rendered: Rendered
    mail: Mail


def check(settings: Settings) -> list[str]:
    """List every fault of every template in every locale, tried with its sample and with hostile names."""
    try:
        message.sender(settings.smtp or _SMTP)
    except ConfigInvalid as exc:
        return [str(exc)]
    renderer = Renderer(settings.templates.path)
    faults = [
        f"rules.{rule.name}.mail: there is no template {rule.mail} in {settings.templates.path}"
        for rule in settings.rules
        if rule.mail and rule.mail not in renderer.locales
    ]
    for template, locales in renderer.locales.items():
        for locale in locales:
            place = f"templates, {template} in {locale}"
            faults += [f"{place}: {fault}" for fault in _faults(settings, renderer, template, locale)]
    return faults


def preview(
    settings: Settings, template: str, locale: str = "", sample: Path | None = None, in_browser: bool = False
) -> None:
    """Print what a mail will be: headers, text and HTML. Raises TemplateInvalid, MailRejected."""
    made = build(settings, template, locale, sample)
    for header, value in message_from_bytes(made.mail.content).items():
        click.echo(f"{header}: {make_header(decode_header(' '.join(value.split())))}")
    click.echo(f"\n{made.rendered.text}")
    show(made.rendered.html, in_browser)


def show(html: str, in_browser: bool) -> None:
    """Print a page, or open it in a browser."""
    if not in_browser:
        click.echo(html)
        return
    with NamedTemporaryFile("w", encoding="utf-8", suffix=".html", delete=False) as file:
        file.write(html)
    click.echo(f"HTML: {file.name}")
    webbrowser.open(f"file://{file.name}")


def build(settings: Settings, template: str, locale: str = "", sample: Path | None = None) -> Preview:
    """Make the mail of a sample, the template's own unless another is given, in its locale unless another is given.

    Raises TemplateInvalid, MailRejected.
    """
    renderer = Renderer(settings.templates.path)
    given = read_sample(sample or _own_sample(renderer, template, locale))
    return _build(settings, renderer, template, locale or given.locale, given)


def read_sample(file: Path) -> Sample:
    """Read a sample. Raises TemplateInvalid."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Sample)
    except OSError as exc:
        raise TemplateInvalid(f"can't read the sample {file}: {exc.strerror}") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise TemplateInvalid(f"{file} is no sample: {exc}") from exc


def _own_sample(renderer: Renderer, template: str, locale: str) -> Path:
    own, _ = negotiate(locale, tuple(renderer.locales.get(template, ())))
    file = renderer.folder / template / own / "sample.json"
    return file if file.is_file() else renderer.folder / template / "sample.json"


def _build(settings: Settings, renderer: Renderer, template: str, locale: str, sample: Sample) -> Preview:
    seen = _names(settings, sample)
    user = cast(SeenUser, seen["user"])
    rules = [rule for rule in settings.rules if rule.mail == template]
    seen |= links.seen(settings.links or (None if rules else _LINKS), user.key, user.email)
    to, unsubscribe_url = message.address(user.email), ""
    if settings.links and not all(rule.essential for rule in rules):
        unsubscribe_url = links.unsubscribe_url(settings.links, address_hash(to))
        seen["unsubscribe_url"] = unsubscribe_url
    rendered = renderer.render(template, locale, seen)
    sender = message.sender(settings.smtp or _SMTP)
    identity = message.message_id("preview", template, template, sender.domain)
    mail = message.compose(
        rendered,
        sender,
        to,
        user.name,
        message_id=identity,
        bounce=message.bounce_id(0, identity),
        unsubscribe_url=unsubscribe_url,
        now=datetime.now(UTC),
    )
    return Preview(rendered, mail)


def _names(settings: Settings, sample: Sample) -> dict[str, object]:
    """Show a template what a consumer would show it, had the sample's change been committed now."""
    table = settings.source.tables[0].name
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    op: Op = "c" if sample.before is None else "u" if sample.after is not None else "d"
    envelope = Envelope(
        op, Source(settings.source.name, now_ms, table.schema, table.table), sample.before, sample.after
    )
    row = sample.after or sample.before or {}
    key = msgspec.json.encode(dict(list(row.items())[:1])).decode()
    return names(envelope, _user(settings, sample), f"{settings.source.name}:0:{0:016x}:1", key)


def _user(settings: Settings, sample: Sample) -> User:
    return settings.user if sample.user is None else User.model_validate(sample.user)


def _faults(settings: Settings, renderer: Renderer, template: str, locale: str) -> Iterator[str]:
    try:
        sample = read_sample(_own_sample(renderer, template, locale))
        made = _build(settings, renderer, template, locale, sample)
    except ServiceError as exc:
        yield str(exc)
        return
    yield from _visible_faults(made.rendered, hosts(settings))
    user = _user(settings, sample)
    for column in _free_texts(sample.after or {}, user):
        whose = "a name" if column == user.name else column
        for what, value in HOSTILE_NAMES.items():
            if column != user.name and not value:
                continue  # whether another column may be empty is the table's to say
            hostile = msgspec.structs.replace(sample, after={**(sample.after or {}), column: value})
            try:
                made = _build(settings, renderer, template, locale, hostile)
            except MailRejected:
                continue  # a mail that must not be sent is not sent
            except ServiceError as exc:
                yield f"where {whose} {what}: {exc}"
            else:
                if "<script>" in made.rendered.html:
                    yield f"where {whose} {what}: it stands in the HTML unescaped"


def _free_texts(row: Row, user: User) -> Iterator[str]:
    """Name the columns in which a user may write anything: those with text in them that is no time, and no address."""
    for column, value in row.items():
        if column == user.name or (isinstance(value, str) and column not in (user.email, user.locale)):
            with suppress(ValueError):
                if column != user.name:
                    datetime.fromisoformat(str(value))
                    continue
            yield column


def _visible_faults(rendered: Rendered, hosts: set[str]) -> Iterator[str]:
    if not rendered.subject:
        yield "the subject is empty"
    if not rendered.text.strip():
        yield "the text is empty, and some readers see nothing else"
    size = len(rendered.html.encode())
    if size > HTML_MAX_BYTES:
        yield f"the HTML has {size} bytes, and Gmail cuts it off at {HTML_MAX_BYTES}"
    page = Page(rendered.html)
    yield from page.unread()
    yield from foreign([*page.urls, *_URL.findall(rendered.text)], hosts)


def foreign(urls: Iterable[str], hosts: set[str]) -> Iterator[str]:
    """Find what leads to other hosts than these and those below them."""
    for url in urls:
        host = (urlsplit(url).hostname or "").lower()
        if not any(host == known or host.endswith(f".{known}") for known in hosts):
            allowed = "which is neither the sender's nor links.base_url's, nor among templates.link_hosts"
            yield f"a link or an image leads to {host or 'nowhere'}, {allowed}"


def hosts(settings: Settings) -> set[str]:
    """Name the hosts that mails may lead to. Raises ConfigInvalid."""
    linked = settings.links or _LINKS
    ours = {(urlsplit(url).hostname or "").lower() for url in (linked.base_url, linked.unsubscribe_base)}
    return ours | {message.sender(settings.smtp or _SMTP).domain, *settings.templates.link_hosts}


class Page(HTMLParser):
    """What the checks need of an HTML page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html: dict[str, str | None] = {}
        self.urls: list[str] = []
        self.feed(html)
        self.close()

    def unread(self) -> Iterator[str]:
        """Find what keeps it from being read aloud."""
        missing = {"lang", "dir"} - self.html.keys()
        return (f"<html> has no {name}, which screen readers need" for name in missing)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "html":
            self.html = {name: value for name, value in attrs if value}
        urls = [value for name, value in attrs if name in _LINKING and value]
        self.urls += [url for url in urls if not url.lower().startswith(("mailto:", "tel:", "cid:", "#"))]
