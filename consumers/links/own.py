"""The pages as users want them: by templates of theirs where there are some, else ours.

`_pages/verified.html.j2` in the folder of templates is one page, `_pages/page.html.j2` every page that has no template
of its own; `_pages/de/...` are the same in German. A process shows what was on the disk when it first showed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from cdc.runtime.errors import TemplateInvalid
from cdc.runtime.log import get_logger
from consumers.links import pages
from consumers.links.pages import Kind
from consumers.mail.render import ROOT_LOCALE, Renderer, direction, locales

FOLDER, EVERY, SUFFIX = "_pages", "page", ".html.j2"
_log = get_logger("links")


class Pages:
    """The pages of a folder of templates. Any thread may show one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locales = locales(folder / FOLDER)[1:]
        self._renderer = Renderer(folder)
        self._shown = cache(self._show)

    def show(self, kind: Kind, accept_language: str) -> tuple[bytes, Mapping[str, str]]:
        """Give a page and its headers in the language that the reader likes best of those it has."""
        return self._shown(kind.name, pages.language(accept_language, self.languages(kind)))

    def languages(self, kind: Kind) -> list[str]:
        """List the languages of a page: ours, and those for which there is a template."""
        own = (name for name in self._locales if self._of_locale(kind, name))
        return list(dict.fromkeys([*kind.texts, *own]))

    def file(self, kind: Kind, lang: str) -> str | None:
        """Name the template of a page; None: it is ours."""
        return self._of_locale(kind, lang) or self._of_locale(kind, ROOT_LOCALE)

    def render(self, kind: Kind, lang: str, **other: str) -> str:
        """Write a page. Raises TemplateInvalid.

        A template sees `page` (its name), `lang`, `dir`, and in the page's language, or else in English, our `title`,
        `text` and `button`, which is none where there is nothing to press; nothing of a user.
        """
        file = self.file(kind, lang)
        if file is None:
            return pages.html(kind, lang)
        title, text, *button = kind.texts.get(lang, kind.texts[ROOT_LOCALE])
        said: dict[str, str | None] = {"title": title, "text": text, "button": button[0] if button else None}
        seen = {"page": kind.name, "lang": lang.replace("_", "-"), "dir": direction(lang)}
        return self._renderer.file(file, {**seen, **said, **other})

    def _show(self, name: str, lang: str) -> tuple[bytes, Mapping[str, str]]:
        kind = pages.ALL[name]
        try:
            html = self.render(kind, lang)
        except TemplateInvalid as exc:
            # The link works all the same.
            _log.error("page_invalid", page=name, lang=lang, why=str(exc))
            html = pages.html(kind, lang)
        return html.encode(), pages.headers(html)

    def _of_locale(self, kind: Kind, locale: str) -> str | None:
        return next((file for file in _files(kind, locale) if (self._folder / file).is_file()), None)


def _files(kind: Kind, locale: str) -> Iterator[str]:
    place = FOLDER if locale == ROOT_LOCALE else f"{FOLDER}/{locale}"
    return (f"{place}/{name}{SUFFIX}" for name in (kind.name, EVERY))
