"""What an HTML page leads to and loads, wherever it says so: attributes, styles, comments for Outlook, text. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from urllib.parse import urlsplit

#: Attributes that lead elsewhere or load something, all of whose value is one address.
_LINKING = frozenset(("href", "src", "action", "formaction", "background", "poster", "data", "xlink:href"))
#: Attributes with several addresses, each with a size behind it.
_SETS = frozenset(("srcset", "imagesrcset"))
_WITHIN = ("mailto:", "tel:", "cid:", "#")
#: What mail programs make a link of in a text; what ends its sentence is none of it.
_TEXT_URL = re.compile(r"(?:\b(?:https?|ftp)://|\bwww\.)[^\s<>\"]+", re.IGNORECASE)
_BEHIND = ".,;:!?)]}'»›”’"
_CSS_URL = re.compile(r"(?:url\(\s*|@import\s+)[\"']?([^\"')\s]+)", re.IGNORECASE)


def host(url: str) -> str:
    """Name the host that a browser would go to, which takes a backslash for a slash; nothing where there is none."""
    try:
        return (urlsplit(url.replace("\\", "/")).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def urls_of_text(text: str) -> list[str]:
    """List what mail programs make links of."""
    found = (url.rstrip(_BEHIND) for url in _TEXT_URL.findall(text))
    return [url if "://" in url else f"//{url}" for url in found]


def foreign(urls: Iterable[str], hosts: set[str]) -> Iterator[str]:
    """Find what leads to other hosts than these and those below them."""
    for name in map(host, urls):
        if not any(name == known or name.endswith(f".{known}") for known in hosts):
            allowed = "which is neither the sender's nor links.base_url's, nor among templates.link_hosts"
            yield f"a link or an image leads to {name or 'nowhere'}, {allowed}"


class Page(HTMLParser):
    """What the checks need of an HTML page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html: dict[str, str | None] = {}
        self.urls: list[str] = []
        self.scripts = 0  #: elements and attributes that run something
        self.feed(html)
        self.close()

    def unread(self) -> Iterator[str]:
        """Find what keeps it from being read aloud."""
        missing = {"lang", "dir"} - self.html.keys()
        return (f"<html> has no {name}, which screen readers need" for name in missing)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "html":
            self.html = {name: value for name, value in attrs if value}
        self.scripts += (tag == "script") + sum(name.startswith("on") for name, _ in attrs)
        self.urls += (url for name, value in attrs for url in _urls(name, value or ""))

    def handle_data(self, data: str) -> None:
        self.urls += _CSS_URL.findall(data) if self.cdata_elem == "style" else urls_of_text(data)

    def handle_comment(self, data: str) -> None:
        if data.lower().startswith("[if"):  # Outlook shows it
            self.urls += Page(data).urls


def _urls(name: str, value: str) -> Iterable[str]:
    if name in _LINKING:
        return [value] if value and not value.lower().startswith(_WITHIN) else []
    if name in _SETS:
        return (each.split()[0] for each in value.split(",") if each.strip())
    if name == "style":
        return _CSS_URL.findall(value)
    # A namespace is a name. All else may be followed: a refresh, a ping, Outlook's own.
    return [] if name.startswith("xmlns") else urls_of_text(value)
