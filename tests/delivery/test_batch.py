"""Bytes reach the socket in the order in which they were given, by whatever way each goes."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from headwater.delivery import _batch as batches
from headwater.delivery._batch import Recipients
from headwater.delivery._direct_sender import DirectSender


class Stream:
    """What the sender tells, and what a channel's stream is to those that write to it."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.written_at = 0.0
        self.sender: DirectSender

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


@pytest.fixture(params=["io_uring", "write"])
def batch(request, monkeypatch):
    """Both ways, also of little."""
    monkeypatch.setattr(batches, "_MANY", 1)
    batch = batches.WriteBatch(uring=request.param == "io_uring")
    yield batch
    batch.close()


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
    stream.sender = DirectSender(transport, stream)
    return stream.sender, stream, client


def everyone(batch, *senders: DirectSender) -> Recipients:
    """Streams that have been sent everything."""
    current = Recipients(batch)
    for sender in senders:
        current.add(sender.stream)
    return current


def put(current: Recipients, data: bytes) -> None:
    """As a channel does it, to streams that take all."""
    for stream in current.write(data, 0.0):
        stream.sender.write(data)
        current.add(stream)


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
@pytest.mark.parametrize("seed", range(3))
def test_shared_and_own_bytes_keep_their_order(new_loop, seed, batch):
    """With readers that are now faster, now slower than what is sent, and some that leave."""
    random_ = random.Random(seed)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = [await connected() for _ in range(5)]
        current = everyone(batch, *(sender for sender, _, _ in made))
        reading: list[asyncio.Future[None]] = []
        pieces: list[list[bytes]] = [[] for _ in made]
        sent: list[list[bytes]] = [[] for _ in made]
        for number in range(2500):
            data = b"%d:" % number + b"x" * random_.choice((1, 200, 5000))
            if random_.random() < 0.8:
                put(current, data)
                for each in sent:
                    each.append(data)
            else:
                one = random_.randrange(len(made))
                made[one][0].write(data)
                sent[one].append(data)
            if random_.random() < 0.3:
                batch.submit()
            if random_.random() < 0.1:
                batch.submit()
                await asyncio.sleep(0)
            if number == 500:
                # By now the connections are full, unless what was sent was little.
                reading = [
                    loop.run_in_executor(None, read, client, found)
                    for (_, _, client), found in zip(made[1:], pieces[1:], strict=True)
                ]
            if number == 1000:
                made[0][2].close()
            if reading and random_.random() < 0.01:
                await asyncio.sleep(0.001)  # the threads that read get a turn
        for sender, _, _ in made:
            sender.finish()
        await asyncio.wait_for(asyncio.gather(*reading), 10)
        for found, given in zip(pieces[1:], sent[1:], strict=True):
            assert body(b"".join(found)) == b"".join(given)
        for _, stream, client in made:
            await asyncio.wait_for(stream.over.wait(), 10)
            client.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        executor = ThreadPoolExecutor(5)
        runner.get_loop().set_default_executor(executor)
        runner.run(main())


@pytest.mark.parametrize("new_loop", list(loops()))
def test_room_in_the_socket_is_not_for_those_who_come_later(new_loop, batch):
    """What the transport still holds goes first, also when the socket could take more by now."""

    async def main() -> None:
        sender, _, client = await connected()
        current = everyone(batch, sender)
        sent = [b"%d:" % number + b"x" * 9000 for number in range(400)]
        waiting = iter(sent)
        while not sender.pending:
            put(current, next(waiting))
            batch.submit()
            await asyncio.sleep(0)
        pieces: list[bytes] = []
        while sum(map(len, pieces)) < 100_000:
            pieces.append(client.recv(65536))
        for data in waiting:
            put(current, data)
        batch.submit()
        sender.finish()
        reading = asyncio.get_running_loop().run_in_executor(None, read, client, pieces)
        await asyncio.wait_for(reading, 10)
        assert body(b"".join(pieces)) == b"".join(sent)
        client.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("new_loop", list(loops()))
def test_what_was_collected_goes_before_the_end(new_loop, batch):
    """Also when a stream is ended in the tick in which something was collected for it."""

    async def main() -> None:
        sender, stream, client = await connected()
        current = everyone(batch, sender)
        put(current, b"first")
        put(current, b"second")
        sender.finish()
        pieces: list[bytes] = []
        await asyncio.get_running_loop().run_in_executor(None, read, client, pieces)
        assert body(b"".join(pieces)) == b"firstsecond"
        await asyncio.wait_for(stream.over.wait(), 10)
        client.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("new_loop", list(loops()))
def test_nothing_is_written_once_the_connection_is_lost(new_loop, batch):
    """The number of its socket may be that of another connection by then."""

    async def main() -> None:
        sender, stream, client = await connected()
        current = everyone(batch, sender)
        stream.lost = lambda: current.discard(stream)
        stream.release = stream.over.set
        put(current, b"before")
        batch.submit()
        number = sender.number
        sender.abort()
        put(current, b"to a socket that is still its own")
        batch.submit()
        await asyncio.wait_for(stream.over.wait(), 10)
        assert not len(current)
        other, its = socket.socketpair()
        with other, its:
            if another := number not in (other.fileno(), its.fileno()):
                os.dup2(other.fileno(), number)
            put(current, b"after")
            batch.submit()
            sender.write(b"after")
            sender.write_rest(b"after", 1)
            if another:
                os.close(number)
            for end in (other, its):
                end.setblocking(False)
                with pytest.raises(BlockingIOError):
                    end.recv(64)
        client.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def test_where_there_is_no_io_uring_each_socket_is_written_to(monkeypatch, caplog):
    """Containers often forbid it. That is said once."""

    class Forbidden:
        def __init__(self) -> None:
            raise PermissionError(1, "io_uring_setup: Operation not permitted")

    monkeypatch.setattr(batches, "Uring", Forbidden)
    caplog.set_level("INFO", "headwater.delivery")
    batch = batches.WriteBatch()
    made = [await connected() for _ in range(20)]
    current = everyone(batch, *(sender for sender, _, _ in made))
    for data in (b"one", b"two", b"three"):
        put(current, data)
        batch.submit()
        await asyncio.sleep(0)
    for sender, _, client in made:
        sender.finish()
        pieces: list[bytes] = []
        await asyncio.to_thread(read, client, pieces)
        assert body(b"".join(pieces)) == b"onetwothree"
        client.close()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "io_uring is not used, each connection is written to alone: "
        "[Errno 1] io_uring_setup: Operation not permitted"
    ]
