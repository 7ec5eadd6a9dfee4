"""How a relay's answers are read: bounded in lines and in time. smtplib reads on for as long as something comes."""

from __future__ import annotations

import errno
import smtplib
import socket
import time
from io import BufferedReader

from consumers.mail.reply import NO_CODE

#: RFC 5321 4.5.3.1.5 has 512 bytes a line; relays list about twenty extensions.
_LINE_MAX_BYTES, _LINES_MAX = 8192, 200


class Session(smtplib.SMTP):
    """A session in which the socket's timeout is that of a whole answer, not of each of its bytes."""

    def getreply(self) -> tuple[int, bytes]:
        """Read an answer. Raises OSError, which says why, where none comes to its end; the session is closed then."""
        sock = self.sock
        if sock is None:
            raise smtplib.SMTPServerDisconnected("not connected")
        timeout_s = sock.gettimeout()
        self.file = self.file or sock.makefile("rb")
        try:
            answer = _answer(sock, self.file, time.monotonic() + (timeout_s or 0.0))
        except OSError:
            self.close()
            raise
        sock.settimeout(timeout_s)
        return answer


class TlsSession(Session, smtplib.SMTP_SSL):
    """The same, encrypted from the first byte on."""


def _answer(sock: socket.socket, file: BufferedReader, until_s: float) -> tuple[int, bytes]:
    lines: list[bytes] = []
    while len(lines) < _LINES_MAX:
        line = _line(sock, file, until_s)
        lines.append(line[4:].strip(b" \t\r\n"))
        if not line[:3].isdigit():
            return NO_CODE, b"\n".join(lines)
        if line[3:4] != b"-":
            return int(line[:3]), b"\n".join(lines)
    raise OSError(errno.EPROTO, "an answer without end")


def _line(sock: socket.socket, file: BufferedReader, until_s: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        sock.settimeout(left_s)
        waiting = file.peek(1)
        if not waiting:
            raise ConnectionResetError(errno.ECONNRESET, "it hung up")
        line += file.read(waiting.find(b"\n") + 1 or len(waiting))
        if len(line) > _LINE_MAX_BYTES:
            raise OSError(errno.EPROTO, "a line without end")
    return line
