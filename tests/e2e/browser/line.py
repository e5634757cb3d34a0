"""The line between a browser and a server, which fails as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Self

from support.until import until

__all__ = ["Line"]

_BAD = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_STREAM = b"content-type: text/event-stream"


class Line:
    """A proxy in a thread of its own. Use as a context manager.

    Arguments:
        port: the server's.

    Attributes:
        address: where the browser goes.
        bad: every new connection is answered 502, as a proxy does whose server is away.
        holds: the bodies of event streams are held back, as a proxy does that buffers.
        dead: nothing is carried from the server, and the connections stay.
        delay: seconds that each piece from the server takes.
        connections: open ones.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.address = ""
        self.bad = self.holds = self.dead = False
        self.delay = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def connections(self) -> int:
        return len(self._writers)

    def cut(self) -> None:
        """End every connection now."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        async def listen() -> asyncio.Server:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            return server

        server = self._loop.run_until_complete(listen())
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())

    async def _end(self) -> None:
        await self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        back: asyncio.StreamWriter | None = None
        try:
            if self.bad:
                await reader.read(65536)
                writer.write(_BAD)
                await writer.drain()
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.wait(
                [
                    asyncio.ensure_future(self._there(reader, back)),
                    asyncio.ensure_future(self._back(there, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            with contextlib.suppress(OSError):
                writer.close()
            if back is not None:
                back.close()

    async def _there(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if self.bad:
                    return
                to.write(data)
                await to.drain()

    async def _back(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        held = False
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await until(lambda: not self.dead, 600, pause=0.05)
                if self.holds and _STREAM in data.lower():
                    # Its head goes through, its body does not.
                    data, held = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", True
                elif held:
                    continue
                to.write(data)
                await to.drain()
