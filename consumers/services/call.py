"""HTTP: the only owner of httpx. One service, its connections, and what its answers mean.

A call may arrive twice (its identity says so), hence no answer is never in doubt: it is made again.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from cdc.runtime.errors import CallRejected, ConfigInvalid, Deferred, DependencyDown, DependencyGone, ServiceError
from cdc.runtime.sections import Service
from consumers.losses import Losses
from consumers.services import address
from consumers.services.connections import Connections
from consumers.services.deadline import Deadlines

#: Down or overloaded for everyone; 401: it does not believe who we are, so it believes none of our calls.
_FOR_EVERYONE = frozenset((401, 408, 429, 502, 503, 504))
#: Of these, what may be one call's doing nonetheless.
_MAY_BE_THE_CALLS = frozenset(("408", "502", "503", "504"))
#: About this one call and not for good. 409: its first attempt is still being worked on (IETF draft Idempotency-Key).
_PASSES = frozenset((409, 423, 425))
_GONE = 410
_NO_REDIRECT = "Redirects are not followed: put the final address into the settings"
#: An answer's body is read so that the connection can be used again, up to here, and thrown away.
_BODY_MAX_BYTES = 64 * 1024
_WHY = {
    httpx.TimeoutException: "not in time",
    httpx.RemoteProtocolError: "it hung up, or sent what is no HTTP",
    httpx.NetworkError: "the line broke",
}


class Client:
    """Calls one service over at most `connections` connections. Any thread may call.

    Raises ConfigInvalid when it is made with a `ca_file` that can't be read, or a `url` that is none.
    """

    def __init__(self, name: str, service: Service) -> None:
        self._name, self._allow_private = name, service.allow_private
        self._url = _url(name, service)
        self._timeout_s = service.timeout.total_seconds()
        self._losses = Losses()
        self._deadlines = Deadlines()
        self._client = httpx.Client(
            transport=_transport(service, self._deadlines),
            follow_redirects=False,  # a redirect leads where nobody checked
            trust_env=False,  # a proxy would resolve the name once more, and nobody would check that
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"content-type": "application/json", "user-agent": "pgherald"},
        )

    def post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Make one call and give the status of its success. Raises DependencyDown, NotYet, Deferred or CallRejected."""
        call_id = headers["webhook-id"]
        try:
            status = self._answered(body, headers)
        except DependencyDown as exc:
            if not _may_be_the_calls(exc):
                raise
            raise self._losses.judge(exc, call_id) from exc.__cause__
        self._losses.taken(call_id)
        return status

    def _answered(self, body: bytes, headers: Mapping[str, str]) -> int:
        self._deadlines.start(self._timeout_s)
        with _no_answer(self._name):
            status, retry_after = self._post(body, headers)
        if error := refusal(self._name, status, retry_after, datetime.now(UTC)):
            raise error
        return status

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str | None]:
        """Call the first address that takes a connection; no other failure leads to a second call."""
        addresses = address.resolve(self._host, self._port, allow_private=self._allow_private)
        # One that swallows what is sent to it leaves time for the others.
        timeout = httpx.Timeout(self._timeout_s, connect=self._timeout_s / len(addresses))
        for each in addresses[:-1]:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return self._post_to(each, body, headers, timeout)
        return self._post_to(addresses[-1], body, headers, timeout)

    def _post_to(
        self, ip: str, body: bytes, headers: Mapping[str, str], timeout: httpx.Timeout
    ) -> tuple[int, str | None]:
        """Call the address that was checked, under the name that is in the settings."""
        with self._client.stream(
            "POST",
            self._url.copy_with(host=ip),
            content=body,
            headers={**headers, "host": self._url.netloc.decode()},
            extensions={"sni_hostname": self._host},
            timeout=timeout,
        ) as response:
            _read_away(response)
            return response.status_code, response.headers.get("retry-after")

    @property
    def _host(self) -> str:
        return self._url.raw_host.decode()

    @property
    def _port(self) -> int:
        return self._url.port or {"https": 443, "http": 80}[self._url.scheme]


def _transport(service: Service, deadlines: Deadlines) -> httpx.HTTPTransport:
    transport = httpx.HTTPTransport(verify=_tls(service.ca_file), trust_env=False)
    # httpx has no way to hand a network backend to httpcore's pool, which it is made of.
    transport._pool = Connections(_tls(service.ca_file), service.connections, deadlines)
    return transport


def _read_away(response: httpx.Response) -> None:
    """Read the body, so that the connection can be used again, and keep nothing of it. The status is enough."""
    read_bytes = 0
    with suppress(httpx.TransportError):
        for chunk in response.iter_raw():
            read_bytes += len(chunk)
            if read_bytes > _BODY_MAX_BYTES:
                return  # the connection is closed with the rest unread


def _may_be_the_calls(error: DependencyDown) -> bool:
    """Tell whether this one call may be why a service fails: not before it is connected, nor by what it says of us."""
    if isinstance(error.__cause__, httpx.TransportError):
        return not isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
    return error.fields.get("code") in _MAY_BE_THE_CALLS


def refusal(service: str, status: int, retry_after: str | None, now: datetime) -> ServiceError | None:
    """Say what a status means: nothing for a success, for everyone, for now, or for good. Pure."""
    if 200 <= status <= 299:
        return None
    message, code = f"{service} answered {status}", str(status)
    if status == _GONE:
        hint = f"Give its new url or take it out of [plans], then `pgherald lanes resume service:{service}`"
        return DependencyGone(message, hint=hint, code=code)
    if status in _FOR_EVERYONE:
        hint = f"See services.{service}.secret_file" if status == 401 else ""
        return DependencyDown(message, hint=hint, retry_after_s=retry_after_s(retry_after, now), code=code)
    if status in _PASSES or status >= 500:  # RFC 9110 15: what is no status counts as a 5xx
        return Deferred(message, retry_after_s=retry_after_s(retry_after, now), code=code)
    return CallRejected(message, hint=_NO_REDIRECT if status < 400 else "", code=code)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Read Retry-After (RFC 9110 10.2.3), seconds or a date; nothing where it is neither. `outcome` bounds it."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds(), 0.0)


def _url(name: str, service: Service) -> httpx.URL:
    try:
        return httpx.URL(service.url)
    except httpx.InvalidURL as exc:
        raise ConfigInvalid(f"services.{name}.url: {exc}") from exc


@cache
def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise ConfigInvalid(f"services: no certificates can be read from the ca_file {ca_file}") from exc


@contextmanager
def _no_answer(service: str) -> Iterator[None]:
    """Classify what happens instead of an answer: it would happen to every call."""
    try:
        yield
    except httpx.ConnectError as exc:
        raise DependencyDown(f"{service} can't be reached: {exc}") from exc
    except httpx.TransportError as exc:
        raise DependencyDown(f"{service} gave no answer: {_why(exc)}") from exc


def _why(exc: httpx.TransportError) -> str:
    """Say what failed, but not by its text: that may quote what the service sent."""
    return next((words for kind, words in _WHY.items() if isinstance(exc, kind)), type(exc).__name__)
