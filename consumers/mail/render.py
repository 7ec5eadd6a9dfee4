"""Render templates: the only owner of Jinja beside consumers.rules.

A template is a folder: subject.txt.j2, body.txt.j2, body.html.j2 in English, and the same files once more in a folder
for each other locale. `_layout` is shared. A process renders what was on the disk when it first used it.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

import css_inline
from babel import Locale, UnknownLocaleError
from jinja2 import FileSystemLoader, TemplateSyntaxError

from cdc.runtime.errors import TemplateInvalid
from consumers.mail import formats
from consumers.mail.message import Rendered
from consumers.rules import Environment

#: What stands in a template's own folder, outside of the folders of locales.
ROOT_LOCALE = "en"
HTML = "body.html.j2"
PARTS = ("subject.txt.j2", "body.txt.j2", HTML)

_LAYOUT = "_layout"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Renderer:
    """The templates of a folder. Any thread may render. Raises TemplateInvalid at a use, never at the start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Template -> its locales. Names from outside are looked up here and so never become a path unchecked.
        self.locales = {name: locales(folder / name) for name in _folders(folder) if _NAME.fullmatch(name)}
        self.environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=lambda name: bool(name and name.endswith(".html.j2")),
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.environment.filters.update(formats.FILTERS)
        # Style sheets stand in the layout: nothing is ever fetched.
        self._inliner = css_inline.CSSInliner(load_remote_stylesheets=False, keep_at_rules=True)
        self._hash = cache(self._hash_of)

    def render(self, template: str, locale: str | None, names: Mapping[str, object]) -> Rendered:
        """Render a template in the nearest locale that it has. Raises TemplateInvalid, which never quotes a value.

        Besides `names` a template sees `lang` and `dir`, as HTML writes them.
        """
        if template not in self.locales:
            raise TemplateInvalid(f"there is no template {template} in {self.folder}", template=template)
        own, lang = negotiate(locale, tuple(self.locales[template]))
        seen = {**names, "lang": lang, "dir": direction(own)}
        subject, text, html = (self.file(self.part(template, own, part), seen) for part in PARTS)
        html = self._with_styles(html, self.part(template, own, HTML))
        return Rendered(subject.strip(), text.strip() + "\n", html, lang, self._hash(template))

    def part(self, template: str, locale: str, part: str) -> str:
        """Name the file of a part in a locale that the template has."""
        return f"{template}/{part}" if locale == ROOT_LOCALE else f"{template}/{locale}/{part}"

    def file(self, path: str, names: Mapping[str, object]) -> str:
        """Render one file. Raises TemplateInvalid, which never quotes a value."""
        try:
            return self.environment.get_template(path).render(names)
        except Exception as exc:
            # `from None`: the text of the cause may hold a value, and this error is logged with its causes.
            raise self._invalid(path, exc) from None

    def _with_styles(self, html: str, path: str) -> str:
        try:
            return self._inliner.inline(html)
        except (css_inline.InlineError, UnicodeError) as exc:
            raise TemplateInvalid(f"{path}: its styles can't be inlined: {type(exc).__name__}", template=path) from None

    def _invalid(self, path: str, exc: Exception) -> TemplateInvalid:
        place, line = self._place(path, exc)
        message = f"{place}, line {line}: {type(exc).__name__}" if line else f"{place}: {type(exc).__name__}"
        return TemplateInvalid(message, hint=self._source_line(place, line), template=path, line=line)

    def _place(self, path: str, exc: Exception) -> tuple[str, int]:
        """Name the file, relative to ours, and the line that failed: the innermost one that is a template's."""
        if isinstance(exc, TemplateSyntaxError):
            return exc.name or path, exc.lineno
        for frame in reversed(traceback.extract_tb(exc.__traceback__)):
            if frame.filename.endswith((".j2", ".css")):
                return str(Path(frame.filename).relative_to(self.folder)), frame.lineno or 0
        return path, 0

    def _source_line(self, place: str, line: int) -> str:
        """Quote the template's own line: it shows what is meant and holds no value."""
        file = self.folder / place
        if not file.is_file():
            return "The file is missing"
        found = file.read_text(errors="replace").split("\n")[line - 1 : line] if line else []
        return f"It says: {found[0].strip()[:200]}" if found else ""

    def _hash_of(self, template: str) -> str:
        digest = hashlib.sha256()
        for name in (template, _LAYOUT):
            for file in sorted(file for file in (self.folder / name).rglob("*") if file.is_file()):
                if file.name != "sample.json":
                    digest.update(f"{file.relative_to(self.folder)}\0{file.stat().st_size}\0".encode())
                    digest.update(file.read_bytes())
        return digest.hexdigest()[:12]


@lru_cache(maxsize=1024)
def negotiate(wanted: str | None, offered: tuple[str, ...]) -> tuple[str, str]:
    """Choose (locale of the template, language tag): the nearest offered locale, else English.

    The tag keeps the user's own region if the language is theirs: German text with Austria's dates for de-AT.
    """
    locale = _parse(wanted or "")
    candidate = str(locale) if locale else ""
    while candidate:
        if candidate in (*offered, ROOT_LOCALE):
            return candidate, str(locale).replace("_", "-")
        candidate = candidate.rpartition("_")[0]
    return ROOT_LOCALE, ROOT_LOCALE


@cache
def direction(locale: str) -> str:
    """Say which way a locale of ours is written."""
    return Locale.parse(locale).text_direction


def _parse(text: str) -> Locale | None:
    """Read a locale as people write it: de-AT, de_AT.UTF-8, DE. Variants are left out."""
    try:
        found = Locale.parse(text.strip().replace("-", "_"))
        return Locale(found.language, found.territory, found.script)
    except (ValueError, UnknownLocaleError):
        return None


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def locales(folder: Path) -> list[str]:
    """List the locales that a folder has: its own, and those of its folders."""
    return [ROOT_LOCALE, *(name for name in _folders(folder) if _is_locale(name))]


def _is_locale(name: str) -> bool:
    return str(_parse(name)) == name
