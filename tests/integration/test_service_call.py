"""Calls to real HTTP servers on this machine, which answer, and which do not."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from standardwebhooks import Webhook

from cdc.contract.envelope import Envelope, Row, Source
from cdc.runtime.errors import CallRejected, ConfigInvalid, Deferred, DependencyDown, DependencyGone, ServiceError
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery
from consumers.outcome import LeaseLost, NotYet
from consumers.services.effect import ServiceEffect
from deploy.local.net import free_port
from tests.support.http import Answer, Endpoint
from tests.support.script import Fault
from tests.support.tls import Certificates

SECRET, OLD_SECRET = "whsec_" + "a" * 32, "whsec_" + "b" * 32
COMMITTED = datetime(2026, 11, 23, 21, 46, tzinfo=timezone(timedelta(hours=1)))
ADA: Row = {"id": "a", "email": "ada@example.org", "plan": "pro"}
Connect = Callable[..., ServiceEffect]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make effects that end with the test."""
    with ExitStack() as stack:

        def connect(url: str, **given: Any) -> ServiceEffect:
            service = {"url": url, "secret": [SECRET, OLD_SECRET], "allow_private": True, "timeout": "5s"} | given
            effect = ServiceEffect(settings(service))
            stack.callback(effect.close)
            return effect

        yield connect


def settings(service: dict[str, Any], **given: Any) -> Settings:
    return Settings.model_validate(
        {
            "source": {"name": "app", "dsn": "", "tables": [{"name": 'public."User"'}]},
            "kafka": {"bootstrap_servers": "127.0.0.1:9092"},
            "user": {"plan": "plan"},
            "plans": {"free": [], "pro": ["storage"]},
            "services": {"storage": service},
        }
        | given
    )


def delivery(
    op: Any = "c", *, before: Row | None = None, after: Row | None = ADA, event_id: str = "app:1:00000000000000ff:3"
) -> Delivery:
    change = Envelope(op, Source("app", 0, "public", "User"), before, after)
    lane = "service:storage"
    return Delivery(1, "services", event_id, "plans", "storage", lane, '{"id":"a"}', 1, 0, COMMITTED, COMMITTED, change)


def nothing() -> None:
    """Permit what asks for permission."""


def test_a_call_is_signed_and_says_who_and_what(endpoint: Endpoint, connect: Connect) -> None:
    before: list[int] = []
    result = connect(f"{endpoint.url}/hooks?x=1")(delivery(), lambda: before.append(len(endpoint.requests)))
    (request,) = endpoint.requests
    assert before == [0]
    assert result == {"status": 204, "webhook_id": request.headers["webhook-id"]}
    assert request.path == "/hooks?x=1"
    assert request.headers["idempotency-key"] == request.headers["webhook-id"]
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == f"127.0.0.1:{endpoint.port}"
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret).verify(request.body, request.headers) == {
            "type": "subscribe",
            "timestamp": "2026-11-23T20:46:00Z",
            "data": {"key": '{"id":"a"}', "service": "storage", "plan": "pro", "previous_plan": None},
        }


@pytest.mark.parametrize(
    ("op", "before", "after", "event_id", "call", "plans"),
    [
        ("c", None, ADA, "app:1:ff:3", "subscribe", ("pro", None)),
        ("r", None, ADA, "app:1:snapshot:ff:public.User:0123", "subscribe", ("pro", None)),
        ("u", ADA | {"plan": "free"}, ADA, "app:1:ff:3", "subscribe", ("pro", "free")),
        ("u", ADA, ADA | {"plan": "free"}, "app:1:ff:3", "unsubscribe", ("free", "pro")),
        ("u", ADA, ADA | {"plan": None}, "app:1:ff:3", "unsubscribe", (None, "pro")),
        ("d", ADA, None, "app:1:ff:3", "unsubscribe", (None, "pro")),
    ],
)
def test_the_event_says_again_which_call_it_is(
    endpoint: Endpoint,
    connect: Connect,
    op: str,
    before: Row | None,
    after: Row | None,
    event_id: str,
    call: str,
    plans: tuple[str | None, str | None],
) -> None:
    connect(endpoint.url)(delivery(op, before=before, after=after, event_id=event_id), nothing)
    said = json.loads(endpoint.requests[0].body)
    assert said["type"] == call
    assert (said["data"]["plan"], said["data"]["previous_plan"]) == plans


def test_another_attempt_has_the_same_identity_and_the_same_body(endpoint: Endpoint, connect: Connect) -> None:
    endpoint.script.next("any", Answer(500))
    effect = connect(endpoint.url)
    with pytest.raises(Deferred):
        effect(delivery(), nothing)
    effect(delivery(), nothing)
    first, second = endpoint.requests
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_a_call_that_settings_no_longer_give_is_rejected_unsaid(endpoint: Endpoint, connect: Connect) -> None:
    with pytest.raises(CallRejected, match="do not concern storage any more"):
        connect(endpoint.url)(delivery(after=ADA | {"plan": "free"}), nothing)
    without = ServiceEffect(settings({}, services={}, plans={}))
    with pytest.raises(CallRejected, match=r"no \[services\.storage\]"):
        without(delivery(), nothing)
    assert not endpoint.requests


def test_without_permission_nothing_is_said(endpoint: Endpoint, connect: Connect) -> None:
    def refuse() -> None:
        raise LeaseLost("taken over")

    with pytest.raises(LeaseLost):
        connect(endpoint.url)(delivery(), refuse)
    assert not endpoint.requests


@pytest.mark.parametrize(
    ("answer", "error", "retry_after_s"),
    [
        (Answer(500), Deferred, None),
        (Answer(503, {"Retry-After": "7"}), DependencyDown, 7),
        (Answer(429, {"Retry-After": "86400"}), DependencyDown, 86400),
        (Answer(401), DependencyDown, None),
        (Answer(404), CallRejected, None),
        (Answer(410), DependencyGone, None),
        (Answer(422, {}, b'{"user": "ada@example.org"}'), CallRejected, None),
        (Answer(302, {"Location": "/elsewhere"}), CallRejected, None),
        (Answer(307, {"Location": "/elsewhere"}), CallRejected, None),
    ],
)
def test_an_answer_is_classified_and_a_redirect_is_not_followed(
    endpoint: Endpoint, connect: Connect, answer: Answer, error: type[ServiceError], retry_after_s: float | None
) -> None:
    endpoint.script.next("any", answer)
    with pytest.raises(error) as refused:
        connect(endpoint.url)(delivery(), nothing)
    assert refused.value.fields["code"] == str(answer.status)
    assert getattr(refused.value, "retry_after_s", None) == retry_after_s
    assert "ada" not in str(refused.value)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("fault", "says"), [(Fault.DROP, "it hung up"), (Fault.HANG, "not in time")])
def test_a_service_that_does_not_answer_is_down_and_is_called_once(
    endpoint: Endpoint, connect: Connect, fault: Fault, says: str
) -> None:
    endpoint.script.next("any", fault)
    with pytest.raises(DependencyDown, match=f"storage gave no answer: {says}"):
        connect(endpoint.url, timeout="300ms")(delivery(), nothing)
    assert len(endpoint.requests) == 1


def test_a_service_that_is_not_there_is_down(connect: Connect) -> None:
    with pytest.raises(DependencyDown, match="storage can't be reached"):
        connect(f"http://127.0.0.1:{free_port()}")(delivery(), nothing)
    with pytest.raises(DependencyDown, match="has no address"):
        connect("http://nowhere.invalid")(delivery(), nothing)


def test_what_is_no_http_is_down_and_is_not_quoted(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:

        def speak() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(b"220 hello ada@example.org\r\n\r\n")

        spoken = threads.submit(speak)
        with pytest.raises(DependencyDown, match="storage gave no answer") as refused:
            connect(f"http://127.0.0.1:{server.getsockname()[1]}")(delivery(), nothing)
        spoken.result()
    assert "ada" not in str(refused.value)


@contextmanager
def speaking(first: bytes, then: bytes) -> Iterator[str]:
    """Serve HTTP by hand: `first` after each request, then `then`, byte by byte, until the caller has had enough."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:

        def speak() -> None:
            while not ended.is_set():
                client, _ = server.accept()
                with client, suppress(OSError):
                    client.recv(65536)
                    client.sendall(first)
                    for byte in then:
                        client.sendall(bytes([byte]))
                        ended.wait(0.02)

        spoken = threads.submit(speak)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        socket.create_connection(server.getsockname()).close()
        spoken.result()


@contextmanager
def answering(answer: bytes, *, again: bool = False) -> Iterator[str]:
    """Serve HTTP by hand: one answer to each request, also on the same connection; or the first without end."""
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:

        def speak() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    clients.append(client)
                    with client, client.makefile("rb") as asking:
                        while _asked(asking):
                            client.sendall(answer)
                            while again:
                                client.sendall(answer)

        spoken = threads.submit(speak)
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for each in (server, *clients):
                with suppress(OSError):  # it ended
                    each.shutdown(socket.SHUT_RDWR)
        spoken.result()


def _asked(asking: BinaryIO) -> bool:
    """Read a request; false at the connection's end."""
    length = 0
    while (line := asking.readline()).strip():
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    asking.read(length)
    return bool(line)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x" * 10_000),
        (b"", b"HTTP/1.1 200" + b" " * 10_000),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 50, b"HTTP/1.1 102 Processing\r\n\r\n" * 500),
    ],
)
def test_a_service_that_drips_its_answer_has_no_longer_than_the_timeout(
    connect: Connect, first: bytes, then: bytes
) -> None:
    with speaking(first, then) as url:
        began = time.monotonic()
        with pytest.raises(DependencyDown, match="storage gave no answer"):
            connect(url, timeout="300ms")(delivery(), nothing)
        assert 0.25 < time.monotonic() - began < 2


def test_a_service_that_says_to_wait_without_end_has_no_longer_than_the_timeout(connect: Connect) -> None:
    with answering(b"HTTP/1.1 102 Processing\r\n\r\n" * 500, again=True) as url:
        began = time.monotonic()
        with pytest.raises(DependencyDown, match="storage gave no answer"):
            connect(url, timeout="300ms")(delivery(), nothing)
        assert time.monotonic() - began < 5


def test_a_dripping_body_is_left_unread_and_the_status_counts(connect: Connect) -> None:
    with speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x" * 9999) as url:
        began = time.monotonic()
        assert connect(url, timeout="300ms")(delivery(), nothing)["status"] == 200
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("trouble", [Answer(503), Answer(504), Fault.DROP, Fault.HANG])
def test_a_call_that_fails_while_others_are_taken_counts_for_itself(
    endpoint: Endpoint, connect: Connect, trouble: Answer | Fault
) -> None:
    effect = connect(endpoint.url, timeout="300ms")
    poison, other = delivery(), delivery(event_id="app:1:00000000000000ff:4")
    for _ in range(2):  # nobody knows yet whose fault it is
        endpoint.script.next("any", trouble)
        with pytest.raises(DependencyDown):
            effect(poison, nothing)
    for refused in (NotYet, NotYet, NotYet, Deferred):
        effect(other, nothing)
        endpoint.script.next("any", trouble)
        with pytest.raises(refused):
            effect(poison, nothing)
    assert effect(poison, nothing)["status"] == 204


def test_what_a_service_says_of_us_is_never_one_calls_fault(endpoint: Endpoint, connect: Connect) -> None:
    effect = connect(endpoint.url)
    for status in (401, 429, 401, 429):
        endpoint.script.next("any", Answer(status))
        with pytest.raises(DependencyDown):
            effect(delivery(), nothing)
        effect(delivery(event_id="app:1:00000000000000ff:4"), nothing)


def test_a_long_answer_is_not_read_to_its_end_and_still_counts(endpoint: Endpoint, connect: Connect) -> None:
    endpoint.script.next("any", Answer(200, {}, b"x" * 8_000_000))
    assert connect(endpoint.url)(delivery(), nothing)["status"] == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_what_an_answer_leaves_behind_is_not_taken_for_the_next_calls(connect: Connect, answer: bytes) -> None:
    with answering(answer) as url:
        effect = connect(url)
        assert [effect(delivery(), nothing)["status"] for _ in range(3)] == [204, 204, 204]


@pytest.mark.parametrize("tail", [b"", b"x"])
def test_an_answer_that_breaks_off_after_its_status_counts(connect: Connect, tail: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:

        def speak() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + tail)

        spoken = threads.submit(speak)
        effect = connect(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert effect(delivery(), nothing)["status"] == 200
        spoken.result()


def test_a_cookie_is_not_sent_back(endpoint: Endpoint, connect: Connect) -> None:
    endpoint.script.next("any", Answer(200, {"Set-Cookie": "session=1"}))
    effect = connect(endpoint.url)
    effect(delivery(), nothing)
    effect(delivery(), nothing)
    assert "cookie" not in endpoint.requests[1].headers


def test_a_proxy_in_the_environment_is_not_used(
    endpoint: Endpoint, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert connect(endpoint.url)(delivery(), nothing)["status"] == 204


# Addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f000001", "2130706433"])
def test_a_private_address_is_not_called_unless_allowed(
    certificates: Certificates, connect: Connect, host: str
) -> None:
    with Endpoint(tls=certificates.server()) as endpoint:
        effect = connect(f"https://{host}:{endpoint.port}", allow_private=False, ca_file=str(certificates.ca_file))
        with pytest.raises(DependencyDown, match="allow_private"):
            effect(delivery(), nothing)
        assert not endpoint.requests


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let storage.example have these addresses."""
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        hosts = addresses if host == "storage.example" else [host]
        return [found for each in hosts for found in real(each, port, *more, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_the_checked_address_is_called_under_the_name_in_the_settings(
    certificates: Certificates, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Endpoint(tls=certificates.server("storage.example")) as endpoint:
        resolving(monkeypatch, "127.0.0.1")
        url = f"https://storage.example:{endpoint.port}/hooks"
        connect(url, ca_file=str(certificates.ca_file))(delivery(), nothing)
        assert endpoint.requests[0].headers["host"] == f"storage.example:{endpoint.port}"


def test_an_address_that_swallows_everything_leaves_time_for_the_next(
    endpoint: Endpoint, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.2", endpoint.port), backlog=0) as full, ExitStack() as stack:
        for _ in range(4):  # a full queue of connections: the next one gets no answer
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
        effect = connect(f"http://storage.example:{endpoint.port}", timeout="1s")
        assert effect(delivery(), nothing)["status"] == 204


def test_one_private_address_among_public_ones_is_enough_to_call_none(
    endpoint: Endpoint, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "8.8.8.8", "127.0.0.1")
    with pytest.raises(DependencyDown, match="not public"):
        connect(f"https://storage.example:{endpoint.port}", allow_private=False)(delivery(), nothing)
    assert not endpoint.requests


def test_a_name_that_changes_its_address_is_checked_at_each_call(
    endpoint: Endpoint, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    effect = connect(f"http://storage.example:{endpoint.port}")
    resolving(monkeypatch, "127.0.0.1")
    effect(delivery(), nothing)
    resolving(monkeypatch, "169.254.169.254")
    with pytest.raises(DependencyDown, match="no service may have"):
        effect(delivery(), nothing)
    assert len(endpoint.requests) == 1


def test_the_next_address_is_tried_where_one_takes_no_connection(
    endpoint: Endpoint, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
    assert connect(f"http://storage.example:{endpoint.port}")(delivery(), nothing)["status"] == 204
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("names", "trusted"), [(("other.example",), True), (("127.0.0.1",), False)])
def test_a_wrong_certificate_is_refused(
    certificates: Certificates, connect: Connect, names: tuple[str, ...], trusted: bool
) -> None:
    with Endpoint(tls=certificates.server(*names)) as endpoint:
        ca_file = {"ca_file": str(certificates.ca_file)} if trusted else {}
        with pytest.raises(DependencyDown, match="certificate verify failed"):
            connect(f"https://127.0.0.1:{endpoint.port}", **ca_file)(delivery(), nothing)
        assert not endpoint.requests


# Settings


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64!", [SECRET, "whsec_?"]])
def test_a_secret_that_is_none_is_a_fault_of_the_settings(connect: Connect, secret: Any) -> None:
    with pytest.raises(ConfigInvalid, match=r"services\.storage\.secret"):
        connect("http://127.0.0.1:1", secret=secret)


def test_a_ca_file_that_can_not_be_read_is_a_fault_of_the_settings(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"gone\.pem"):
        connect("https://storage.example", ca_file=str(tmp_path / "gone.pem"))


def test_many_threads_call_over_no_more_connections_than_allowed(endpoint: Endpoint, connect: Connect) -> None:
    effect = connect(endpoint.url, connections=2)
    deliveries = [delivery(event_id=f"app:1:00000000000000ff:{number}") for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda each: effect(each, nothing), deliveries))
    assert len({str(result["webhook_id"]) for result in results}) == 40
    assert sorted(str(result["webhook_id"]) for result in results) == sorted(
        request.headers["webhook-id"] for request in endpoint.requests
    )


def test_timestamps_are_of_the_attempt_not_of_the_event(endpoint: Endpoint, connect: Connect) -> None:
    connect(endpoint.url)(delivery(), nothing)
    age_s = datetime.now(UTC).timestamp() - int(endpoint.requests[0].headers["webhook-timestamp"])
    assert 0 <= age_s < 30
