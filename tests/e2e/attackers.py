"""Clients that mean no good: a program that :class:`siege.Siege` starts.

It is given its plan as JSON, prints a line when attackers of each kind have come, and its visits as
JSON when its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

__all__ = ["BROKEN", "KINDS", "connection"]

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


class Attackers:
    """All attackers.

    Attributes:
        visits: by kind.
        all_came: is set when each kind has come.
    """

    def __init__(
        self, port: int, number: int, pause: float, headers: dict[str, str], position: str
    ) -> None:
        self._port = port
        self._rng = random.Random(number)
        self._number = number
        self._pause = pause
        credentials = "\r\n".join(f"{k}: {v}" for k, v in headers.items())
        self._known = f"Host: 127.0.0.1\r\n{credentials}\r\n\r\n".encode()
        self._position = position
        self.visits = dict.fromkeys(KINDS, 0)
        self.all_came = asyncio.Event()

    async def run(self) -> None:
        """Attack until it is cancelled."""
        names = list(KINDS)
        async with asyncio.TaskGroup() as tasks:
            for n in range(self._number):
                address = ADDRESSES[n % len(ADDRESSES)]
                tasks.create_task(self._attack(names[n % len(names)], address))

    async def _attack(self, kind: str, address: str) -> None:
        while True:
            await asyncio.sleep(
                self._rng.uniform(self._pause / 100, self._pause)
            )  # an attacker's pause
            with contextlib.suppress(*BROKEN):
                buffer = 4096 if kind == "unread" else None
                async with connection(self._port, address, buffer=buffer) as (reader, writer):
                    self.visits[kind] += 1
                    if all(self.visits.values()):
                        self.all_came.set()
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


KINDS: dict[
    str, Callable[[Attackers, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
] = {
    "silent": Attackers.silent,
    "half a head": Attackers.half_head,
    "trickled body": Attackers.trickle,
    "huge head": Attackers.huge_head,
    "unread": Attackers.unread,
    "left poll": Attackers.left_poll,
    "wrong passwords": Attackers.flood,
}


async def main(plan: dict[str, Any]) -> None:
    attackers = Attackers(**plan)
    attack = asyncio.create_task(attackers.run())
    await attackers.all_came.wait()
    print("all have come", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    attack.cancel()
    print(json.dumps(attackers.visits), flush=True)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main(json.loads(sys.argv[1])))
