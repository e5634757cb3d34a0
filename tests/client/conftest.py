"""A server that does what it is told, byte by byte, and both clients behind one face."""

import asyncio
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import headwater.client
import headwater.client.sync


@dataclass
class Seen:
    target: str
    headers: dict[str, bytes]
    method: str = "GET"
    body: bytes = b""
    names: list[str] = field(default_factory=list)

    @property
    def position(self):
        """The Last-Event-ID that came with it."""
        found = self.headers.get("last-event-id")
        return found and found.decode()


@dataclass
class Server:
    """Answers each connection with the next script, and with 204 when there is none left."""

    STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    CHUNKED = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    ABORT = object()  # cut the connection, with a reset
    HOLD = object()  # say nothing until the client leaves
    # An asyncio.Event is waited for.

    port: int = 0
    scripts: list[list[Any]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/api/logs/stream"

    @staticmethod
    def answer(status, body=b"", *headers):
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
        return ["\r\n".join([*lines, *headers, "", ""]).encode() + body]

    @classmethod
    def stream(cls, *steps):
        return [cls.STREAM, *steps]

    def script(self, *answers):
        self.scripts.extend(answers)

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            lines = [line.partition(b":") for line in head[1:] if line]
            headers = {name.decode().lower(): value.strip() for name, _, value in lines}
            method, target = head[0].decode().split()[:2]
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            names = [name.decode().lower() for name, _, _ in lines]
            self.seen.append(Seen(target, headers, method, body, names))
            for step in self.scripts.pop(0) if self.scripts else self.answer(204):
                if step is self.ABORT:
                    writer.transport.abort()
                    return
                if step is self.HOLD:
                    await reader.read()
                    self.left.set()
                    break
                if isinstance(step, asyncio.Event):
                    await step.wait()
                    continue
                writer.write(step)
                await writer.drain()
                # Let the bytes leave on their own, so that the client sees pieces.
                await asyncio.sleep(0)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        writer.close()


@dataclass
class Unreachable:
    """A host that takes no connection. Linux alone drops what its queue has no place for."""

    port: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def connecting(self):
        """How many connections wait for it."""
        lines = Path("/proc/net/tcp").read_text().splitlines()
        return sum(f":{self.port:04X} 02 " in line for line in lines)


@pytest.fixture
def unreachable():
    if sys.platform != "linux":
        pytest.skip("other systems refuse what their queue lacks")
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # its queue is full then
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield Unreachable(listener.getsockname()[1])


@pytest.fixture
async def server():
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    yield server
    listener.close()


class Aio:
    """The client for asyncio, to the end of the stream or to ``count`` values."""

    async def collect(self, open_name, url, count=None, **options):
        got = []
        error = None
        async with asyncio.timeout(20):
            opened = getattr(headwater.client, open_name)(url, **self.fast(options))
            try:
                async with opened as values:
                    async for value in values:
                        got.append(value)
                        if len(got) == count:
                            break
            except headwater.errors.HeadwaterError as caught:
                error = caught
        return got, error, opened.last_event_id

    @staticmethod
    def fast(options):
        return {"retry": 0, "random": lambda: 0.0, **options}

    @staticmethod
    def opened(open_name, url, **options):
        """The iterator itself."""
        return getattr(headwater.client, open_name)(url, **options)

    async def messages(self, url, count=None, **options):
        return await self.collect("stream", url, count, **options)

    async def values(self, url, count=None, **options):
        return await self.collect("follow", url, count, **options)


class Sync(Aio):
    """The client without asyncio, in a thread."""

    async def collect(self, open_name, url, count=None, **options):
        def run():
            got = []
            error = None
            opened = getattr(headwater.client.sync, open_name)(url, **self.fast(options))
            try:
                with opened as values:
                    for value in values:
                        got.append(value)
                        if len(got) == count:
                            break
            except headwater.errors.HeadwaterError as caught:
                error = caught
            return got, error, opened.last_event_id

        async with asyncio.timeout(20):
            return await asyncio.to_thread(run)

    @staticmethod
    def opened(open_name, url, **options):
        return getattr(headwater.client.sync, open_name)(url, **options)


@pytest.fixture(params=[Aio, Sync], ids=["aio", "sync"])
def client(request):
    return request.param()
