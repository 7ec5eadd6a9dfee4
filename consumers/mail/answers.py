"""What is said to a relay and how its answers are read: bounded in lines and in time, with few calls of the system.

Each such call gives the interpreter to another thread, and a mail would then wait for it again: smtplib and a socket
with a timeout make thirty of a mail, this ten. smtplib also reads on for as long as something comes.
"""

from __future__ import annotations

import errno
import select
import smtplib
import socket
import ssl
import time

from consumers.mail.reply import NO_CODE

#: RFC 5321 4.5.3.1.5 has 512 bytes a line; relays list about twenty extensions.
_LINE_MAX_BYTES, _LINES_MAX = 8192, 200
#: No TLS record is longer: after a reading nothing stays in TLS's own buffer, where no poll sees it.
_CHUNK_BYTES = 1 << 16
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError)
_NO_ROOM = (BlockingIOError, ssl.SSLWantWriteError)


class Line:
    """A socket that does not block, and what was read of it. Raises OSError, which says why: it is of no more use."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._rest = sock, b""
        self._input, self._room = select.poll(), select.poll()
        self._input.register(sock, select.POLLIN)
        self._room.register(sock, select.POLLOUT)

    def close(self) -> None:
        """Do nothing, for smtplib: the socket is its own."""

    def say(self, text: bytes, timeout_s: float) -> None:
        """Send all of it."""
        until_s = time.monotonic() + timeout_s
        left = memoryview(text)
        while left:
            try:
                left = left[self._sock.send(left) :]
            except _NO_ROOM:
                _wait(self._room, until_s)

    def hear(self, timeout_s: float) -> tuple[int, bytes]:
        """Read an answer; the timeout is for all of it, not for each of its bytes.

        One whose lines say yes and no (RFC 5321 4.2.1: all have one code) is none.
        """
        until_s = time.monotonic() + timeout_s
        lines: list[bytes] = []
        kinds: set[bytes] = set()
        while len(lines) < _LINES_MAX:
            line = self._line(until_s)
            lines.append(line[4:].strip(b" \t\r\n"))
            kinds.add(line[:1])
            if not line[:3].isdigit():
                return NO_CODE, b"\n".join(lines)
            if line[3:4] != b"-":
                return int(line[:3]) if len(kinds) == 1 else NO_CODE, b"\n".join(lines)
        raise OSError(errno.EPROTO, "an answer without end")

    def is_silent(self) -> bool:
        """Tell whether there is nothing to read: no end, and no answer too many."""
        if self._rest:
            return False
        if not self._input.poll(0):
            return True
        try:
            self._rest = self._sock.recv(_CHUNK_BYTES)
        except _NOT_YET:
            return True  # it was TLS's own
        except OSError:
            return False
        return False

    def _line(self, until_s: float) -> bytes:
        while not (end := self._rest.find(b"\n") + 1) and len(self._rest) <= _LINE_MAX_BYTES:
            _wait(self._input, until_s)
            self._rest += self._read()
        if not 0 < end <= _LINE_MAX_BYTES:
            raise OSError(errno.EPROTO, "a line without end")
        line, self._rest = self._rest[:end], self._rest[end:]
        return line

    def _read(self) -> bytes:
        try:
            if read := self._sock.recv(_CHUNK_BYTES):
                return read
        except _NOT_YET:
            return b""  # TLS had something of its own, or not all of a record
        raise ConnectionResetError(errno.ECONNRESET, "it hung up")


class Session(smtplib.SMTP):
    """A session whose answers a Line reads."""

    def getreply(self) -> tuple[int, bytes]:
        """Read an answer in the time that the socket has. Raises OSError, which says why, and closes the session."""
        timeout_s = self.sock.gettimeout() if self.sock else None
        try:
            answer = self.line().hear(timeout_s or 0.0)
        except OSError:
            self.close()
            raise
        if self.sock:
            self.sock.settimeout(timeout_s)
        return answer

    def line(self) -> Line:
        """Give what is beneath, for who speaks without smtplib: the socket does not block from here on."""
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("not connected")
        self.sock.settimeout(0.0)
        self.file = self.file or Line(self.sock)  # smtplib forgets it where it encrypts, and what was read before too
        line: Line = self.file
        return line


class TlsSession(Session, smtplib.SMTP_SSL):
    """The same, encrypted from the first byte on."""


def _wait(poll: select.poll, until_s: float) -> None:
    left_s = until_s - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise TimeoutError
