"""See mails before users do: a template in a locale with its sample, with no server.

A sample is JSON: `{"locale": ..., "before": null, "after": {row}}`, and `user` if its columns are other than settings'.
"""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import cast

import click
import msgspec
from pydantic import SecretStr

from cdc.contract.envelope import Envelope, Op, Row, Source
from cdc.runtime.errors import TemplateInvalid
from cdc.runtime.sections import User
from cdc.runtime.sections_mail import Links, Smtp
from cdc.runtime.settings import Settings
from consumers.mail import links, message
from consumers.mail.message import Mail, Rendered
from consumers.mail.render import Renderer, negotiate
from consumers.mail.suppression import address_hash
from consumers.rules import SeenUser, names

#: Stand in where settings have no such section and no rule sends the template.
SMTP = Smtp(host="localhost", sender="Preview <preview@example.org>")
LINKS = Links(base_url="https://example.org/verify", secret=[SecretStr("preview")])


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
    seen: dict[str, object]  #: by the template


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
    if template not in renderer.locales:
        hint = f"There are {', '.join(renderer.locales)}" if renderer.locales else "See templates.path"
        raise TemplateInvalid(f"there is no template {template} in {renderer.folder}", hint=hint)
    given = read_sample(sample or own_sample(renderer, template, locale))
    return of_sample(settings, renderer, template, locale or given.locale, given)


def read_sample(file: Path) -> Sample:
    """Read a sample. Raises TemplateInvalid."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Sample)
    except OSError as exc:
        raise TemplateInvalid(f"can't read the sample {file}: {exc.strerror}") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise TemplateInvalid(f"{file} is no sample: {exc}") from exc


def own_sample(renderer: Renderer, template: str, locale: str) -> Path:
    """Name the file of a template's own sample, in a locale if it has one there."""
    own, _ = negotiate(locale, tuple(renderer.locales.get(template, ())))
    file = renderer.folder / template / own / "sample.json"
    return file if file.is_file() else renderer.folder / template / "sample.json"


def of_sample(settings: Settings, renderer: Renderer, template: str, locale: str, sample: Sample) -> Preview:
    """Make the mail of a sample in a locale. Raises TemplateInvalid, MailRejected."""
    seen = _names(settings, sample)
    user = cast(SeenUser, seen["user"])
    rules = [rule for rule in settings.rules if rule.mail == template]
    seen |= links.seen(settings.links or (None if rules else LINKS), user.key, user.email)
    to, unsubscribe_url = message.address(user.email), ""
    if settings.links and not all(rule.essential for rule in rules):
        unsubscribe_url = links.unsubscribe_url(settings.links, address_hash(to))
        seen["unsubscribe_url"] = unsubscribe_url
    rendered = renderer.render(template, locale, seen)
    sender = message.sender(settings.smtp or SMTP)
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
    return Preview(rendered, mail, seen)


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
    return names(envelope, user_of(settings, sample), f"{settings.source.name}:0:{0:016x}:1", key)


def user_of(settings: Settings, sample: Sample) -> User:
    """Tell how a sample is read as a user."""
    return settings.user if sample.user is None else User.model_validate(sample.user)
