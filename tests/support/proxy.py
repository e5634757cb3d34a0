"""A proxy on this machine that delays, cuts or holds connections as a test says.

The server has a port, or a Unix socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Carries bytes to a port or the path of a Unix socket, and back.

    Attributes:
        port: to connect to.
        opened: connections so far.
        delay: seconds that each piece from the server takes.
    """

    def __init__(self, target: int | str) -> None:
        self.target = target
        self.port = 0
        self.opened = 0
        self.delay = 0.0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._left: int | None = None
        self._flows = asyncio.Event()
        self._flows.set()

    def cut(self) -> None:
        """End every connection now."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def cut_after(self, count: int) -> None:
        """End every connection after this many more bytes from the server."""
        self._left = count

    def hold(self) -> None:
        """Keep the connections, and pass on nothing from the server."""
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            if isinstance(self.target, str):
                there, back = await asyncio.open_unix_connection(self.target)
            else:
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer, own=True))
        finally:
            self._writers -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _carry(
        self, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, own: bool = False
    ) -> None:
        try:
            while data := await source.read(65536):
                if own:
                    if self.delay:
                        await asyncio.sleep(self.delay)
                    await self._flows.wait()
                    if self._left is not None:
                        data, self._left = data[: self._left], self._left - len(data)
                        if self._left <= 0:
                            to.write(data)
                            await to.drain()
                            self._left = None
                            self.cut()
                            return
                to.write(data)
                await to.drain()
        except OSError:
            pass
        finally:
            to.transport.abort() if own else to.close()


@asynccontextmanager
async def proxied(target: int | str) -> AsyncIterator[Proxy]:
    """A proxy to a port, or to the path of a Unix socket. The block's end cuts its connections."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy._connected, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.release()
        proxy.cut()
        await server.wait_closed()
