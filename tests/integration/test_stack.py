"""The local stack: what `make up` starts survives the death of any part, and keeps what it promised to keep."""

import json
import smtplib
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

import httpx
import psycopg2
import pytest
from standardwebhooks import Webhook

from cdc.runtime.settings import load
from deploy.local import configure
from deploy.local.process import ServerFailed
from deploy.local.stack import Stack
from tests.support.http import Endpoint


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "stack")
    yield made
    made.purge()


def test_up_starts_what_died_on_the_same_ports(stack: Stack) -> None:
    assert None not in stack.up().values()
    ports = [server.port for server in Stack(stack.folder).servers]
    for server in stack.servers:
        server.kill()
        took = stack.up()
        assert [name for name, seconds in took.items() if seconds is not None] == [server.name]
    assert [server.port for server in stack.servers] == ports


def test_the_settings_fit_and_the_role_can_read_but_not_write(stack: Stack) -> None:
    stack.up()
    dsn = load(stack.settings).source.dsn.get_secret_value()
    assert (stack.settings.stat().st_mode & 0o077) == 0
    session = psycopg2.connect(dsn)
    try:
        with session, session.cursor() as cursor:
            cursor.execute('SELECT count(*) FROM public."User"')
            cursor.execute("CREATE SCHEMA pgherald")
        with session, session.cursor() as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute('DELETE FROM public."User"')
    finally:
        session.close()


def test_a_port_that_another_program_took_is_named(stack: Stack) -> None:
    with Endpoint(port=stack.inbox.port), pytest.raises(ServerFailed, match=f"{stack.inbox.port} of inbox is taken"):
        stack.up()


def test_the_inbox_keeps_the_bytes_of_a_mail_through_a_kill(stack: Stack) -> None:
    stack.inbox.start()
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@example.org", "ü@example.org", "Grüße"
    mail.set_content("one\n.\n..two\n")
    with smtplib.SMTP("127.0.0.1", stack.inbox.port, timeout=10) as client:
        client.send_message(mail)
    stack.inbox.kill()
    [kept] = stack.mails.glob("*.eml")
    assert "Subject: Grüße\r\n".encode() in kept.read_bytes()
    assert kept.read_bytes().endswith(b"one\r\n.\r\n..two\r\n")


def test_the_receiver_works_once_a_webhook_id_also_after_a_restart(stack: Stack) -> None:
    secret = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="
    services = stack.folder / "secrets" / "services"
    services.mkdir(parents=True)
    (services / "newsletter").write_text(secret)
    stack.receiver.start()
    assert _call(stack, "newsletter", secret) == 200
    stack.receiver.restart()
    assert _call(stack, "newsletter", secret) == 200
    assert _call(stack, "newsletter", "whsec_b3RoZXItb3RoZXItb3RoZXI=") == 401
    assert _call(stack, "unknown", secret) == 404
    calls = [json.loads(line) for line in stack.calls.read_text().splitlines()]
    assert [(call["verified"], call["duplicate"]) for call in calls] == [(True, False), (True, True), (False, False)]
    assert calls[0]["body"] == {"type": "subscribe"}
    assert calls[2]["body"] is None


def _call(stack: Stack, service: str, secret: str) -> int:
    body, now = '{"type": "subscribe"}', datetime.now(UTC)
    headers = {
        "webhook-id": "delivery-1",
        "idempotency-key": "delivery-1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("delivery-1", now, body),
    }
    return httpx.post(f"http://127.0.0.1:{stack.receiver.port}/{service}", content=body, headers=headers).status_code


def test_a_call_whose_caller_dies_in_its_middle_is_no_call(stack: Stack) -> None:
    configure.write_secrets(stack.folder)
    stack.receiver.start()
    with socket.create_connection(("127.0.0.1", stack.receiver.port)) as caller:
        caller.sendall(b"POST /newsletter HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf of it")
        caller.shutdown(socket.SHUT_WR)
        assert caller.recv(100) == b""
    assert stack.calls.read_text() == ""
