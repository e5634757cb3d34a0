"""Bytes reach the socket in the order in which they were given, by whatever way each goes."""

from __future__ import annotations

import asyncio
import os
import random
import socket

import pytest

from headwater.delivery.direct import DirectSender
from headwater.delivery.sender import Shared


class Stream:
    """What the sender tells."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def idle(self) -> None:
        pass

    def lost(self) -> None:
        self.over.set()

    def release(self) -> None:
        pass


def loops():
    yield pytest.param(asyncio.new_event_loop, id="asyncio")
    try:
        import uvloop
    except ImportError:
        return
    yield pytest.param(uvloop.new_event_loop, id="uvloop")


async def connected() -> tuple[DirectSender, Stream, socket.socket]:
    """A sender on a real connection, and the client's end of it."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    client.settimeout(10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, server)
    stream = Stream()
    return DirectSender(transport, stream), stream, client


def read(client: socket.socket, pieces: list[bytes]) -> None:
    while data := client.recv(65536):
        pieces.append(data)


def body(raw: bytes) -> bytes:
    """What chunked coding carries; fails on anything else."""
    found = []
    at = 0
    while True:
        end = raw.index(b"\r\n", at)
        length = int(raw[at:end], 16)
        at = end + 2 + length
        found.append(raw[end + 2 : at])
        assert raw[at : at + 2] == b"\r\n"
        at += 2
        if not length:
            assert at == len(raw)
            return b"".join(found)


@pytest.mark.parametrize("new_loop", list(loops()))
@pytest.mark.parametrize("seed", range(4))
def test_shared_and_own_bytes_keep_their_order(new_loop, seed):
    """With a reader that is now faster, now slower than what is sent."""
    random_ = random.Random(seed)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sender, stream, client = await connected()
        pieces: list[bytes] = []
        sent: list[bytes] = []
        reading = None
        for number in range(4000):
            data = b"%d:" % number + b"x" * random_.choice((1, 200, 5000))
            if random_.random() < 0.8:
                sender.put(Shared(data))
            else:
                sender.write(data)
            sent.append(data)
            if random_.random() < 0.1:
                await asyncio.sleep(0)
            if number == 500:
                # By now the connection is full, unless what was sent was little.
                reading = loop.run_in_executor(None, read, client, pieces)
            if reading is not None and random_.random() < 0.01:
                await asyncio.sleep(0.001)
        sender.finish()
        await asyncio.wait_for(reading, 10)
        assert body(b"".join(pieces)) == b"".join(sent)
        await asyncio.wait_for(stream.over.wait(), 10)
        client.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("new_loop", list(loops()))
def test_room_in_the_socket_is_not_for_those_who_come_later(new_loop):
    """What the transport still holds goes first, also when the socket could take more by now."""

    async def main() -> None:
        sender, _, client = await connected()
        sent = [b"%d:" % number + b"x" * 9000 for number in range(400)]
        waiting = iter(sent)
        while not sender.pending:
            sender.put(Shared(next(waiting)))
            await asyncio.sleep(0)
        pieces: list[bytes] = []
        while sum(map(len, pieces)) < 100_000:
            pieces.append(client.recv(65536))
        for data in waiting:
            sender.put(Shared(data))
        sender.finish()
        reading = asyncio.get_running_loop().run_in_executor(None, read, client, pieces)
        await asyncio.wait_for(reading, 10)
        assert body(b"".join(pieces)) == b"".join(sent)
        client.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("new_loop", list(loops()))
def test_nothing_is_written_once_the_connection_closes(new_loop, monkeypatch):
    """The number of its socket may be that of another connection by then."""

    async def main() -> None:
        sender, stream, client = await connected()
        sender.put(Shared(b"before"))
        await asyncio.sleep(0)
        sender.put(Shared(b"before"))
        sender.abort()
        monkeypatch.setattr(os, "write", lambda *_: pytest.fail("written to a closed socket"))
        sender.put(Shared(b"after"))
        await asyncio.wait_for(stream.over.wait(), 10)
        sender.put(Shared(b"after"))
        client.close()
        monkeypatch.undo()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
