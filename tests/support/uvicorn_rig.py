"""One application behind Headwater's own protocol, with limits that a test can reach."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from starlette.requests import Request

from headwater.web.fastapi import identify
from headwater.web.uvicorn import ConnectionCounters, Limits, Protocol
from support.server import stoppable
from support.until import patience

PATIENCE = 10.0


class App:
    """Answers ``/wait`` when ``go_on`` is set, and everything else at once.

    Attributes:
        began: the paths of the requests that it got.
        bodies: the bodies of those that it read to their end.
        gone: requests whose client was gone before their end.
        page: what ``/page`` answers.

    A request is made on behalf of whom its header ``x-user`` names.
    """

    def __init__(self) -> None:
        self.began: list[str] = []
        self.bodies: list[bytes] = []
        self.gone = 0
        self.go_on = asyncio.Event()
        self.page = b"x"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        self.began.append(path)
        if path == "/wait":
            await self.go_on.wait()
        if path == "/read" and not await self._read(receive):
            return
        for name, value in scope["headers"]:
            if name == b"x-user":
                identify(Request(scope), value.decode())
        body = self.page if path == "/page" else path.encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _read(self, receive: Any) -> bool:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return False
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                return True


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def get(self, path: str, *lines: str) -> None:
        head = "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *lines, "", ""))
        self.send(head.encode())

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with patience(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split(" ")[1]), headers, body

    async def ended(self) -> bytes:
        """What comes until the server closes the connection."""
        async with patience(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


class Rig:
    """A server.

    Attributes:
        stop: tells it to end.
    """

    def __init__(self, port: int, app: Any, counters: ConnectionCounters, stop: Any) -> None:
        self.stop = stop
        self.port = port
        self.app = app
        self.counters = counters

    def refused(self, reason: str) -> int:
        return self.counters.by_reason[reason]

    @asynccontextmanager
    async def client(
        self, host: str = "127.0.0.1", *, buffer: int | None = None
    ) -> AsyncIterator[Client]:
        """A connection; only 127.0.0.1 is a trusted proxy.

        Its kernel takes so many bytes, ``buffer``, that the client does not read.
        """
        sock = socket.socket()
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setblocking(False)
        sock.bind((host, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**20)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def rigged(app: Any = None, *, limits: Any = None, **options: Any) -> AsyncIterator[Rig]:
    app = app or App()

    class Mine(Protocol):
        counters = ConnectionCounters()

    Mine.limits = Limits(**(limits or {}))
    async with stoppable(app, http=Mine, **options) as (port, stop):
        yield Rig(port, app, Mine.counters, stop)


@contextmanager
def few_descriptors(free: int) -> Any:
    """Only so many file descriptors above those that are open now."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    filled = [os.open(os.devnull, os.O_RDONLY)]
    while filled[-1] < highest:
        filled.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(*filled, highest) + 1 + free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for number in filled:
            os.close(number)
