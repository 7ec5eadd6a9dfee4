"""A relay that takes every mail and forgets it, after a delay at the final dot. As a process: `PORT DELAY_MS`.

It does as little as a relay can: one reading of a chunk, one answer a command.
"""

from __future__ import annotations

import asyncio
import sys

_DOT = b"\r\n.\r\n"


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._rest = b""
        self._in_mail = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while self._take():
            pass

    def _take(self) -> bool:
        """Answer what is complete; tell whether there was something."""
        end = _DOT if self._in_mail else b"\r\n"
        piece, found, rest = self._rest.partition(end)
        if not found:
            return False
        self._rest = rest
        if self._in_mail:
            self._in_mail = False
            asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, b"250 2.0.0 taken\r\n")
        else:
            self._transport.write(self._answer(piece[:4].upper()))
        return True

    def _answer(self, verb: bytes) -> bytes:
        self._in_mail = verb == b"DATA"
        return {b"DATA": b"354 go on\r\n", b"EHLO": b"250-sink\r\n250 8BITMIME\r\n", b"QUIT": b"221 bye\r\n"}.get(
            verb, b"250 2.0.0 fine\r\n"
        )


async def serve(port: int, delay_ms: int) -> None:
    """Listen on 127.0.0.1 until the process ends."""
    server = await asyncio.get_running_loop().create_server(lambda: Sink(delay_ms / 1000), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
