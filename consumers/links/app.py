"""The ASGI application: what each request to a link is answered. No token, key or address is logged.

GET and HEAD show a button and change nothing, as mail scanners follow links; POST does it. What is forged or too old
never reaches a database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from itsdangerous import BadData, SignatureExpired

from cdc.runtime import metrics
from cdc.runtime.errors import ConfigInvalid, ServiceError
from cdc.runtime.log import get_logger
from cdc.runtime.sections_mail import Links
from cdc.runtime.settings import Settings
from consumers import journal
from consumers.links import pages, uses
from consumers.links.own import Pages
from consumers.links.pages import Kind
from consumers.mail import links as signed

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: A form holds a token at most.
_BODY_MAX_BYTES, _TOKEN_MAX = 16_384, 8_192
#: For a body that does not come.
_BODY_MAX_S = 10.0
_VERIFY, _UNSUBSCRIBE = "verify", "unsubscribe"
_log = get_logger("links")


class App:
    """Answers at the last part of links.base_url's path, and of the unsubscribe links', wherever it is mounted."""

    def __init__(self, settings: Settings) -> None:
        if settings.links is None:
            raise ConfigInvalid("there are no [links]", hint="links.base_url and links.secret_file are needed")
        self._settings = settings
        self._links: Links = settings.links
        self._pages = Pages(settings.templates.path)
        self._secrets = signed.revealed(settings.links)
        self._places = {
            _last(urlsplit(settings.links.base_url).path): _VERIFY,
            _last(urlsplit(settings.links.unsubscribe_base).path): _UNSUBSCRIBE,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or a server's start and end."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            kind = await self._page(scope, receive)
            await _answer(scope, send, kind, *self._pages.show(kind, _accept_language(scope)))

    async def _page(self, scope: Scope, receive: Receive) -> Kind:
        purpose = self._places.get(_last(scope["path"]))
        if purpose is None:
            return pages.NOT_FOUND
        try:
            if scope["method"] in ("GET", "HEAD"):
                return self._ask(purpose, _token(scope["query_string"]))
            if scope["method"] == "POST":
                token = await _body(receive, _token(scope["query_string"]))
                return await asyncio.to_thread(self._use, purpose, token)
        except SignatureExpired:
            return pages.EXPIRED
        except BadData:
            return pages.INVALID
        return pages.NOT_ALLOWED

    def _ask(self, purpose: str, token: str) -> Kind:
        """Show the button of a good link. Raises BadData."""
        self._read(purpose, token)
        return pages.ASK_VERIFY if purpose == _VERIFY else pages.ASK_UNSUBSCRIBE

    def _use(self, purpose: str, token: str) -> Kind:
        """Do what a good link is for. Raises BadData."""
        said = self._read(purpose, token)
        try:
            outcome, page = self._do(purpose, said)
        except Exception as exc:
            # Not a foreign error's text: it may hold a row's value.
            why = str(exc) if isinstance(exc, ServiceError) else f"{type(exc).__name__} at {journal.where(exc)}"
            _log.error("link_failed", purpose=purpose, why=why)
            outcome, page = "failed", pages.LATER
        metrics.links_used.labels(purpose, outcome).inc()
        _log.info("link_used", purpose=purpose, outcome=outcome)
        return page

    def _read(self, purpose: str, token: str) -> tuple[str, ...]:
        """Read what a link says. Raises BadData. Every token is checked the same way, none too."""
        if purpose == _UNSUBSCRIBE:
            return (signed.unsubscribing(token[:_TOKEN_MAX], self._secrets),)
        return signed.verifying(token[:_TOKEN_MAX], self._secrets, self._links.max_age)

    def _do(self, purpose: str, said: tuple[str, ...]) -> tuple[str, Kind]:
        if purpose == _UNSUBSCRIBE:
            uses.unsubscribe(self._settings, *said)
            return "unsubscribed", pages.UNSUBSCRIBED
        outcome = uses.verify(self._settings, self._links, *said)
        return outcome, {"verified": pages.VERIFIED, "used": pages.USED, "gone": pages.GONE}[outcome]


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _token(form: bytes) -> str:
    try:
        return parse_qs(form.decode("ascii", "replace"), max_num_fields=20)["token"][0]
    except (KeyError, ValueError):  # none, or more fields than any form of ours
        return ""


async def _body(receive: Receive, token: str) -> str:
    """Read a form to its end, but not for long; give the token of the address, else the form's. Raises BadData."""
    read = b""
    try:
        async with asyncio.timeout(_BODY_MAX_S):
            while True:
                message = await receive()
                read += message.get("body", b"")
                if len(read) > _BODY_MAX_BYTES or message["type"] == "http.disconnect":
                    raise BadData("no form of ours")
                if not message.get("more_body"):
                    return token or _token(read)
    except TimeoutError as exc:
        raise BadData("no form of ours") from exc


def _accept_language(scope: Scope) -> str:
    given: bytes = dict(scope["headers"]).get(b"accept-language", b"")
    return given.decode("ascii", "replace")


async def _answer(scope: Scope, send: Send, kind: Kind, body: bytes, page_headers: Mapping[str, str]) -> None:
    headers = {**page_headers, "content-length": str(len(body))}
    if kind is pages.NOT_ALLOWED:
        headers["allow"] = "GET, HEAD, POST"
    if kind is pages.LATER:
        headers["retry-after"] = "60"
    start = {"type": "http.response.start", "status": kind.status}
    await send(start | {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _live(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})
