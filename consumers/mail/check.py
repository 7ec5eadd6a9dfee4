"""Check mails before users get them: every template in every locale, against its sample, with no server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

import msgspec

from cdc.contract.envelope import Row
from cdc.runtime.errors import ConfigInvalid, MailRejected, ServiceError
from cdc.runtime.sections import User
from cdc.runtime.settings import Settings
from consumers import branches
from consumers.branches import HOLE, Source
from consumers.mail import message, preview
from consumers.mail.message import Rendered
from consumers.mail.page import Page, foreign, host, urls_of_text
from consumers.mail.preview import Sample
from consumers.mail.render import PARTS, ROOT_LOCALE, Renderer
from consumers.rules import SeenEvent, SeenUser

#: Gmail cuts off what is longer.
PART_MAX_BYTES = 102 * 1024

#: What people call themselves, or try to.
HOSTILE_NAMES = {
    "holds an encoded word": "=?UTF-8?Q?=0A?=Bcc: eve@example.org",
    "holds line ends": "Ada\r\nBcc: eve@example.org",
    "is markup": "<script>alert(1)</script> onclick=alert(1)",
    "is a template": "{{ 7 * 7 }}{% include 'sample.json' %}",
    "runs from right to left": "\u202eمحمد بن موسى الخوارزمي",
    "has 200 characters": "Ada Lovelace, Countess. " * 9,
    "is emoji": "👩🏽‍💻🇩🇪",
    "is empty": "",
    "is missing": None,
}


def check(settings: Settings) -> list[str]:
    """List every fault of every template in every locale, tried with its sample and with hostile names."""
    try:
        message.sender(settings.smtp or preview.SMTP)
    except ConfigInvalid as exc:
        return [str(exc)]
    renderer = Renderer(settings.templates.path)
    faults = [
        f"rules.{rule.name}.mail: there is no template {rule.mail} in {settings.templates.path}"
        for rule in settings.rules
        if rule.mail and rule.mail not in renderer.locales
    ]
    for template, locales in renderer.locales.items():
        faults += _strays(renderer, template)
        for locale in locales:
            place = f"templates, {template} in {locale}"
            faults += dict.fromkeys(f"{place}: {fault}" for fault in _faults(settings, renderer, template, locale))
    return faults


def hosts(settings: Settings) -> set[str]:
    """Name the hosts that mails may lead to. Raises ConfigInvalid."""
    linked = settings.links or preview.LINKS
    ours = {host(url) for url in (linked.base_url, linked.unsubscribe_base)}
    return ours | {message.sender(settings.smtp or preview.SMTP).domain, *settings.templates.link_hosts}


def _strays(renderer: Renderer, template: str) -> Iterator[str]:
    """Find translations that nobody gets: a locale mistyped is one that falls back to English."""
    folder = renderer.folder / template
    used = set(renderer.locales[template]) - {ROOT_LOCALE}
    for place in sorted({file.parent for part in PARTS for file in folder.glob(f"*/{part}")}):
        if place.name not in used:
            whose = f"its folder is no locale (de, pt_BR), or that of English, which stands in {template} itself"
            yield f"templates, {template}/{place.name}: {whose}"


def _faults(settings: Settings, renderer: Renderer, template: str, locale: str) -> Iterator[str]:
    try:
        sample = preview.read_sample(preview.own_sample(renderer, template, locale))
        made = preview.of_sample(settings, renderer, template, locale, sample)
    except ServiceError as exc:
        yield str(exc)
        return
    allowed = hosts(settings)
    yield from _visible_faults(made.rendered, allowed)
    for part in PARTS:
        yield from _hidden_faults(renderer, renderer.part(template, locale, part), made.seen, allowed)
    yield from _hostile_faults(settings, renderer, template, locale, sample, made.rendered.html)


def _hostile_faults(
    settings: Settings, renderer: Renderer, template: str, locale: str, sample: Sample, usual: str
) -> Iterator[str]:
    """Find what only shows where a user's own text is hostile: `usual` is the HTML otherwise."""
    scripts = Page(usual).scripts
    user, row = preview.user_of(settings, sample), sample.after or {}
    for column in _free_texts(row, user):
        whose = "a name" if column == user.name else column
        for what, value in HOSTILE_NAMES.items():
            if column != user.name and not value:
                continue  # whether another column may be empty is the table's to say
            hostile = msgspec.structs.replace(sample, after={**row, column: value})
            try:
                rendered = preview.of_sample(settings, renderer, template, locale, hostile).rendered
            except MailRejected:
                continue  # a mail that must not be sent is not sent
            except ServiceError as exc:
                yield f"where {whose} {what}: {exc}"
                continue
            if rendered.html != usual and Page(rendered.html).scripts > scripts:
                yield f"where {whose} {what}: it stands in the HTML unescaped"
            if not rendered.subject:
                yield f"where {whose} {what}: the subject is empty"


def _free_texts(row: Row, user: User) -> Iterator[str]:
    """Name the columns in which a user may write anything: those with text in them that is no time, and no address."""
    for column, value in row.items():
        if column == user.name or (isinstance(value, str) and column not in (user.email, user.locale)):
            with suppress(ValueError):
                if column != user.name:
                    datetime.fromisoformat(str(value))
                    continue
            yield column


def _visible_faults(rendered: Rendered, allowed: set[str]) -> Iterator[str]:
    if not rendered.subject:
        yield "the subject is empty"
    if not rendered.text.strip():
        yield "the text is empty, and some readers see nothing else"
    for name, part in (("HTML", rendered.html), ("text", rendered.text)):
        if (size := len(part.encode())) > PART_MAX_BYTES:
            yield f"the {name} has {size} bytes, and Gmail cuts it off at {PART_MAX_BYTES}"
    page = Page(rendered.html)
    yield from page.unread()
    yield from foreign([*page.urls, *urls_of_text(rendered.text)], allowed)


def _hidden_faults(renderer: Renderer, part: str, seen: dict[str, object], allowed: set[str]) -> Iterator[str]:
    """Find what only shows in branches that the sample does not take."""
    files, missing = branches.sources(renderer.environment, part)
    yield from missing
    yield from branches.unknown(renderer.environment, files, _known(seen))
    for file in files:
        for fault in foreign(_literal_urls(file), allowed):
            yield f"{file.place}: {fault}"


def _literal_urls(file: Source) -> Iterator[str]:
    """List the addresses whose host stands in the template itself, not in a value."""
    text = branches.literal(file.tree)
    urls = Page(text).urls if ".html." in file.place else urls_of_text(text)
    return (url for url in urls if host(url) and HOLE not in host(url))


def _known(seen: dict[str, object]) -> branches.Known:
    known: dict[str, set[str] | None] = {"lang": None, "dir": None}
    for name, value in seen.items():
        if isinstance(value, SeenEvent | SeenUser):
            known[name] = set(value.__slots__)
        else:
            # Another change of the row may have changed other columns.
            known[name] = {*value, *dir(value)} if isinstance(value, dict) and name != "changed" else None
    return known
