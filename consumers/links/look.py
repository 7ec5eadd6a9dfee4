"""See and check the pages behind links before users do: every one in every language, with no server."""

from __future__ import annotations

from collections.abc import Iterator

from cdc.runtime.errors import ConfigInvalid, TemplateInvalid
from cdc.runtime.settings import Settings
from consumers.links import pages
from consumers.links.own import EVERY, FOLDER, SUFFIX, Pages
from consumers.links.pages import Kind
from consumers.mail import check as mail
from consumers.mail.page import Page, foreign, host
from consumers.mail.preview import show
from consumers.mail.render import ROOT_LOCALE, locales

#: What stands before a page's name where a mail's template could stand.
PREFIX = f"{FOLDER}/"
_REFUSED = ("script", "iframe", "object", "embed", "base")
_HOSTILE = "<script>alert(1)</script>"


def check(settings: Settings) -> list[str]:
    """List every fault of every page that has a template, each at the first page and language that shows it."""
    try:
        hosts = mail.hosts(settings)
    except ConfigInvalid:
        return []  # the check of the mails says it
    found: dict[str, str] = {}
    own = Pages(settings.templates.path)
    for kind in pages.ALL.values():
        for lang in own.languages(kind):
            if file := own.file(kind, lang):
                for fault in _faults(own, kind, lang, hosts):
                    found.setdefault(f"{file}: {fault}", f"templates, {file} as {kind.name} in {lang}: {fault}")
    return [*_strays(settings), *found.values()]


def preview(settings: Settings, page: str, locale: str = "", in_browser: bool = False) -> None:
    """Print a page as its readers see it, or open it in a browser. Raises TemplateInvalid."""
    kind = pages.ALL.get(page.removeprefix(PREFIX))
    if kind is None:
        raise TemplateInvalid(f"there is no page {page}", hint=_known())
    own = Pages(settings.templates.path)
    show(own.render(kind, pages.language(locale.replace("_", "-"), own.languages(kind))), in_browser)


def _strays(settings: Settings) -> Iterator[str]:
    """Find templates that no page has: a name mistyped is a page that stays as it was."""
    folder = settings.templates.path / FOLDER
    places = {folder, *(folder / locale for locale in locales(folder) if locale != ROOT_LOCALE)}
    for file in sorted(folder.rglob(f"*{SUFFIX}")):
        name = file.name.removesuffix(SUFFIX)
        place = f"templates, {file.relative_to(settings.templates.path)}"
        if name.startswith("_"):
            continue  # a piece of others
        if name not in (EVERY, *pages.ALL):
            yield f"{place}: there is no such page. {_known()}"
        elif file.parent not in places:
            yield f"{place}: its folder is no locale, or that of English, which stands in {FOLDER} itself"


def _known() -> str:
    return f"Pages are {', '.join(pages.ALL)}; {EVERY}{SUFFIX} is all that have no template of their own"


def _faults(own: Pages, kind: Kind, lang: str, hosts: set[str]) -> Iterator[str]:
    try:
        page = _Page(own.render(kind, lang))
        escaped = _HOSTILE not in own.render(kind, lang, title=_HOSTILE, text=_HOSTILE)
    except TemplateInvalid as exc:
        yield str(exc)
        return
    if not escaped:
        yield "what it says stands in it unescaped"
    yield from page.unread()
    yield from foreign(filter(host, page.urls), hosts)
    if kind in (pages.ASK_VERIFY, pages.ASK_UNSUBSCRIBE) and not page.asks:
        yield 'it has no <form method="post"> without an action, with a <button>: the link could not be used'
    allowed = "browsers are told to run nothing, and to load nothing but images of the same site, by their path"
    yield from (f"{what}: {allowed}" for what in page.refused)


class _Page(Page):
    """What the checks need of a page."""

    def __init__(self, html: str) -> None:
        self.asks = False
        #: What its content security policy forbids.
        self.refused: list[str] = []
        self._in_form = False
        super().__init__(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._in_form = given.get("method", "").lower() == "post" and "action" not in given
        elif tag == "button" or given.get("type") == "submit":
            self.asks = self.asks or self._in_form
        if tag in _REFUSED or "stylesheet" in given.get("rel", ""):
            self.refused.append(f"<{tag}>")
        if host(given.get("src", "")):
            self.refused.append(f"<{tag} src> with a host")
        self.refused += [f"<{tag} {name}>" for name in given if name == "style" or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._in_form = False
