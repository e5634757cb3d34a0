"""Clients that mean no good, and clients as the standard has them, each counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from running import Running

from headwater.protocol import Decoder

__all__ = ["KINDS", "EventSource", "Siege", "connection"]

BROKEN = (OSError, EOFError, asyncio.IncompleteReadError)
# The attackers' addresses. The good ones come from 127.0.0.1, as through a proxy.
ADDRESSES = [f"127.0.1.{number}" for number in range(1, 13)]


@contextlib.asynccontextmanager
async def connection(
    port: int, address: str | None = None, *, buffer: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection from an address of this machine; its end is a reset."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        if address is not None:
            sock.bind((address, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**16 if not buffer else 1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


class EventSource:
    """A client as the WHATWG text has it: any status but 200 ends it for good.

    Attributes:
        told: the messages of the items, in order.
        ended: the status that ended it for good, or 0.
        opened: how often it was connected.
        resets: how often it was told to begin anew.
    """

    def __init__(self, port: int, path: str, headers: dict[str, str], key: str = "message") -> None:
        self._port = port
        self._path = path
        self._headers = headers
        self._key = key
        self._retry = 1.0
        self._decoder = Decoder()
        self.last_id = ""
        self.told: list[Any] = []
        self.ended = self.opened = self.resets = 0

    async def run(self) -> None:
        """Follow until it is cancelled, or ended for good."""
        while not self.ended:
            with contextlib.suppress(*BROKEN):
                await self._visit()
            await asyncio.sleep(self._retry)  # as the server said

    async def _visit(self) -> None:
        async with connection(self._port) as (reader, writer):
            headers = dict(self._headers)
            if self.last_id:
                headers["Last-Event-ID"] = self.last_id
            lines = [f"GET {self._path} HTTP/1.1", "Host: 127.0.0.1"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status != 200:
                self.ended = status
                return
            self.opened += 1
            # By the standard what was not whole is dropped with the connection.
            self._decoder = Decoder(last_event_id=self.last_id)
            chunked = b"transfer-encoding: chunked" in head.lower()
            while data := await (_chunk(reader) if chunked else reader.read(2**16)):
                for message in self._decoder.feed(data):
                    self.last_id = message.last_event_id
                    self.resets += message.event == "reset"
                    if message.event == "log":
                        self.told.append(json.loads(message.data)[self._key])
                if self._decoder.retry is not None:
                    self._retry = self._decoder.retry / 1000


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readuntil(b"\r\n")).strip(), 16)
    return (await reader.readexactly(size + 2))[:-2]


class Siege:
    """So many attackers, of seven kinds, that come again and again.

    Arguments:
        pause: seconds between two visits of one attacker, at most; a hundredth of it at least.

    Attributes:
        visits: by kind.
    """

    def __init__(self, server: Running, number: int, pause: float) -> None:
        self._port = server.port
        self._rng = random.Random(number)
        self._pause = pause
        credentials = "\r\n".join(f"{k}: {v}" for k, v in server.headers.items())
        self._known = f"Host: 127.0.0.1\r\n{credentials}\r\n\r\n".encode()
        self._position = server.api.get("/api/logs?limit=1").json()["position"]
        self.visits = dict.fromkeys(KINDS, 0)
        names = list(KINDS)
        self._tasks = [
            asyncio.create_task(self._attack(names[n % len(names)], ADDRESSES[n % len(ADDRESSES)]))
            for n in range(number)
        ]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _attack(self, kind: str, address: str) -> None:
        while True:
            await asyncio.sleep(
                self._rng.uniform(self._pause / 100, self._pause)
            )  # an attacker's pause
            with contextlib.suppress(*BROKEN):
                buffer = 4096 if kind == "unread" else None
                async with connection(self._port, address, buffer=buffer) as (reader, writer):
                    self.visits[kind] += 1
                    await KINDS[kind](self, reader, writer)

    async def silent(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def half_head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /api/logs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")
        await reader.read()

    async def trickle(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"{")
            await asyncio.sleep(1.0)  # the attack itself

    async def huge_head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Huge: " + b"x" * 500_000)
        await writer.drain()
        await reader.read()

    async def unread(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((b"GET /api/logs?limit=100 HTTP/1.1\r\n" + self._known) * 10)
        await asyncio.sleep(60.0)  # it reads nothing

    async def left_poll(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = f"/api/logs?wait=60&after={self._position}&level=critical"
        writer.write(f"GET {path} HTTP/1.1\r\n".encode() + self._known)
        await asyncio.sleep(self._rng.uniform(0.05, 1.0))  # then it leaves

    async def flood(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"email": "admin@example.org", "password": "guessed"}'
        writer.write(
            b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await reader.readuntil(b"\r\n\r\n")


KINDS: dict[str, Callable[[Siege, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]] = {
    "silent": Siege.silent,
    "half a head": Siege.half_head,
    "trickled body": Siege.trickle,
    "huge head": Siege.huge_head,
    "unread": Siege.unread,
    "left poll": Siege.left_poll,
    "wrong passwords": Siege.flood,
}
