"""An SMTP server that keeps every mail as a file: <time>-<number>.eml, the bytes as they came.

    python -m deploy.local.inbox PORT FOLDER

A mail that was answered with 250 is in the folder, also after a kill -9 of this process. Nothing of a mail is logged.
"""

import argparse
import asyncio
import itertools
import signal
from datetime import UTC, datetime
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session


class Inbox:
    """aiosmtpd calls it once a mail, from one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 aiosmtpd's
        """Keep the mail, then say so. The name owes nothing to what the client sent."""
        arrived = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        name = f"{arrived}-{next(self._numbers):06d}.eml"
        half_written = self.folder / f".{name}"
        half_written.write_bytes(envelope.original_content or b"")
        half_written.rename(self.folder / name)  # whoever lists the folder sees whole mails only
        return "250 2.0.0 kept"


async def serve(port: int, folder: Path) -> None:
    """Listen on 127.0.0.1 until SIGTERM."""
    folder.mkdir(parents=True, exist_ok=True)
    loop, stopped, inbox = asyncio.get_running_loop(), asyncio.Event(), Inbox(folder)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)

    def session() -> SMTP:
        return SMTP(inbox, hostname="inbox.localhost", enable_SMTPUTF8=True, loop=loop)

    server = await loop.create_server(session, "127.0.0.1", port)
    await stopped.wait()
    server.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description="Keep every mail as a file.")
    arguments.add_argument("port", type=int)
    arguments.add_argument("folder", type=Path)
    given = arguments.parse_args()
    asyncio.run(serve(given.port, given.folder))


if __name__ == "__main__":
    main()
