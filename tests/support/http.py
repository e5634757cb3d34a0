"""A bare HTTP/1.1 client that shows every byte, and that can stop reading or leave at any time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headwater.protocol import Decoder, Message
from support.until import patience

PATIENCE = 10.0


class Answer:
    """One response. ``raw`` is its body as received so far, without the chunks' framing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.header_list: list[tuple[str, str]] = []
        self.raw = b""
        self.ended = False
        self._decoder = Decoder()
        self._messages: list[Message] = []

    async def read_head(self) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(head[0].split(" ")[1])
        for line in head[1:]:
            if line:
                name, _, value = line.partition(":")
                self.headers[name.lower()] = value.strip()
                self.header_list.append((name.lower(), value.strip()))

    async def read_some(self) -> bytes:
        """Read the next piece of the body; returns b"" at its end."""
        if self.ended:
            return b""
        if self.headers.get("transfer-encoding") == "chunked":
            size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
            data = (await self.reader.readexactly(size + 2))[:-2]
            self.ended = size == 0
        else:
            length = int(self.headers.get("content-length", "0"))
            data = await self.reader.readexactly(length)
            self.ended = True
        self.raw += data
        self._messages += self._decoder.feed(data)
        return data

    async def body(self) -> bytes:
        """Read the whole body."""
        async with patience(PATIENCE):
            while await self.read_some():
                pass
        return self.raw

    async def until(self, text: bytes) -> bytes:
        """Read until ``text`` has come."""
        async with patience(PATIENCE):
            while text not in self.raw:
                if not await self.read_some():
                    raise AssertionError(f"the body ended without {text!r}: {self.raw!r}")
        return self.raw

    async def next(self) -> Message:
        """Wait for the next event."""
        async with patience(PATIENCE):
            while not self._messages:
                if not await self.read_some():
                    raise AssertionError(f"the stream ended: {self.raw[-500:]!r}")
        return self._messages.pop(0)

    async def rest(self) -> list[Message]:
        """Read to the end of the stream; returns the events."""
        await self.body()
        found, self._messages = self._messages, []
        return found

    @property
    def retry(self) -> int | None:
        return self._decoder.retry

    def leave(self) -> None:
        """Drop the connection at once."""
        self.writer.transport.abort()


@asynccontextmanager
async def request(
    port: int,
    path: str,
    *,
    host: str = "127.0.0.1",
    method: str = "GET",
    headers: dict[str, str | bytes] | None = None,
    body: bytes = b"",
    receive_buffer: int | None = None,
) -> AsyncIterator[Answer]:
    """Send a request and read the head of its answer. The block's end drops the connection."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    limit = 2**16 if receive_buffer is None else 1024
    reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: 127.0.0.1"]
    for name, value in (headers or {}).items():
        lines.append(
            name.encode() + b": " + (value if isinstance(value, bytes) else value.encode())
        )
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    answer = Answer(reader, writer)
    try:
        async with patience(PATIENCE):
            await answer.read_head()
        yield answer
    finally:
        writer.transport.abort()


async def poll(port: int, path: str, tag: str) -> tuple[int, str]:
    """Ask with ``If-None-Match``; returns the answer's status and ``ETag``."""
    async with request(port, path, headers={"If-None-Match": tag}) as answer:
        return answer.status, answer.headers["etag"]
