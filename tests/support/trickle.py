"""A client that reads slowly, as on a mobile network at the edge of its reach."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

# Bytes of a packet, as on most networks; on the loopback interface they are 64 KB.
_PACKET = 1460
# Seconds between two reads of 1,500 bytes: 30 KB a second.
_PACE = 0.05


@asynccontextmanager
async def trickling(port: int, request: bytes) -> AsyncIterator[Callable[[], int]]:
    """Send a request and read its answer slowly; gives the number of bytes that were read."""
    loop, taken = asyncio.get_running_loop(), 0
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _PACKET)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        await loop.sock_sendall(sock, request)

        async def read() -> None:
            nonlocal taken
            with suppress(ConnectionError):
                while data := await loop.sock_recv(sock, 1500):
                    taken += len(data)
                    await asyncio.sleep(_PACE)

        reading = asyncio.create_task(read())
        try:
            yield lambda: taken
        finally:
            reading.cancel()
            await asyncio.wait({reading})
