"""What an application would write by hand: mails sent in a loop. As a process: `flask|smtplib PORT COUNT FOLDER`.

FOLDER holds subject, text and html, rendered beforehand: rendering costs these senders nothing. Prints JSON: seconds,
CPU seconds.
"""

from __future__ import annotations

import json
import smtplib
import sys
import time
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

SENDER = "no-reply@example.org"


def with_flask_mail(port: int, count: int, subject: str, text: str, html: str) -> None:
    """Send as Flask-Mail's documentation does: a connection a mail."""
    from flask import Flask
    from flask_mail import Mail, Message

    app = Flask("application")
    app.config.update(MAIL_SERVER="127.0.0.1", MAIL_PORT=port, MAIL_DEFAULT_SENDER=SENDER)
    mail = Mail(app)
    with app.app_context():
        for number in range(count):
            mail.send(Message(subject, recipients=[f"user{number}@example.org"], body=text, html=html))


def with_smtplib(port: int, count: int, subject: str, text: str, html: str) -> None:
    """Send over one connection."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="localhost") as session:
        for number in range(count):
            message = EmailMessage()
            message["Subject"], message["From"], message["To"] = subject, SENDER, f"user{number}@example.org"
            message.set_content(text)
            message.add_alternative(html, subtype="html")
            session.send_message(message)


def main(kind: str, port: str, count: str, folder: str) -> None:
    """Send, and say what it took."""
    send: Callable[..., None] = with_flask_mail if kind == "flask" else with_smtplib
    parts = [(Path(folder) / part).read_text() for part in ("subject", "text", "html")]
    send(int(port), 5, *parts)  # imports and first lookups
    began, used_s = time.monotonic(), time.process_time()
    send(int(port), int(count), *parts)
    sys.stdout.write(json.dumps({"s": time.monotonic() - began, "cpu_s": time.process_time() - used_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
