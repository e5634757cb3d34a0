"""``headwater bench``: a quick fan-out figure for this machine."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import socket
import statistics
import time
from multiprocessing.connection import Connection
from typing import Annotated, Any

import typer

from headwater.cli.progress import Bar, progress

_REQUEST = b"GET /api/bench/stream?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
_PAD = "x" * 120
_WARM_UP = 5


def bench(
    streams: Annotated[
        int, typer.Option(min=1, max=15_000, help="How many streams to open.")
    ] = 1000,
    events: Annotated[
        int, typer.Option(min=1, max=10_000, help="How many events to send, one at a time.")
    ] = 100,
    seconds: Annotated[float, typer.Option(min=1, max=300, help="Stop after this time.")] = 20.0,
) -> None:
    """Open many streams of one feed on this machine, and measure what one event costs.

    Server and clients are two processes on the loopback interface. The figures hold for this
    machine at this time. Compare them only with figures of the same run.
    """
    _raise_file_limit(streams + 100)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    try:
        if not ours.poll(20):
            typer.echo("the server did not start", err=True)
            raise typer.Exit(1)
        port = ours.recv()
        with progress("opening streams", streams) as bar:
            found = asyncio.run(_measure(ours, port, streams, events, seconds, bar))
    finally:
        server.terminate()
        server.join(10)
    for name, value in found.items():
        typer.echo(f"{name:32} {value}")


def _raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        typer.echo(f"--streams: this system allows {hard} open files a process", err=True)
        raise typer.Exit(2)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _serve(pipe: Connection) -> None:
    import uvicorn
    from fastapi import FastAPI

    from headwater.eventlog import MemoryLog
    from headwater.web.fastapi import LiveRouter, Source

    log = MemoryLog()
    app = FastAPI()
    live = LiveRouter()

    @live.feed("/bench", item=dict[str, Any], event="tick")
    async def ticks() -> Source:
        return log.topic("bench")

    app.include_router(live, prefix="/api")

    async def run() -> None:
        _raise_file_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
        config = uvicorn.Config(
            app, log_level="error", http="headwater.web.uvicorn:Protocol", backlog=4096
        )
        server = uvicorn.Server(config)
        loop = asyncio.get_running_loop()

        def asked() -> None:
            number = pipe.recv()
            if number < 0:
                usage = resource.getrusage(resource.RUSAGE_SELF)
                pipe.send(usage.ru_utime + usage.ru_stime)
                return
            event = {"id": str(number), "at": time.perf_counter(), "pad": _PAD}
            task = loop.create_task(log.append("bench", [event]))
            task.add_done_callback(lambda done: done.result())

        loop.add_reader(pipe.fileno(), asked)
        pipe.send(sock.getsockname()[1])
        await server.serve(sockets=[sock])

    asyncio.run(run())


class _Client(asyncio.Protocol):
    """Counts events; the first of each is what latency is measured by."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        done, _, self._rest = (self._rest + data).rpartition(b"\n\n")
        if b"event: snapshot" in done:
            self._tally.live += 1
        self._tally.received += done.count(b"event: tick")
        self._tally.changed.set()


class _Tally:
    def __init__(self) -> None:
        self.live = 0
        self.received = 0
        self.changed = asyncio.Event()

    async def until(self, live: int, received: int, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                while self.live < live or self.received < received:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True


async def _measure(
    pipe: Connection, port: int, streams: int, events: int, seconds: float, bar: Bar
) -> dict[str, str]:
    loop = asyncio.get_running_loop()
    tally = _Tally()
    deadline = loop.time() + seconds
    began = time.perf_counter()
    transports = []
    for first in range(0, streams, 100):
        made = await asyncio.gather(
            *(
                loop.create_connection(lambda: _Client(tally), "127.0.0.1", port)
                for _ in range(min(100, streams - first))
            )
        )
        transports += [transport for transport, _ in made]
        bar.at(tally.live, total=streams)
    opened = await tally.until(streams, 0, deadline)
    opening = time.perf_counter() - began
    if not opened:
        typer.echo(f"only {tally.live} of {streams} streams opened in {seconds:g} s", err=True)
        raise typer.Exit(1)
    spans = []
    used = 0.0
    for number in range(_WARM_UP + events):
        if number == _WARM_UP:
            pipe.send(-1)
            used = await asyncio.to_thread(pipe.recv)
        began = time.perf_counter()
        pipe.send(number)
        if not await tally.until(streams, streams * (number + 1), deadline):
            break
        if number >= _WARM_UP:
            spans.append(time.perf_counter() - began)
        bar.at(number + 1, total=_WARM_UP + events, says="events to all streams")
    pipe.send(-1)
    used = await asyncio.to_thread(pipe.recv) - used
    for transport in transports:
        transport.abort()
    if not spans:
        typer.echo(f"no event reached all streams in {seconds:g} s", err=True)
        raise typer.Exit(1)
    spans.sort()
    p99 = spans[int((len(spans) - 1) * 0.99 + 0.5)]
    return {
        "processors": str(os.cpu_count()),
        "streams": f"{streams}",
        "streams opened per second": f"{streams / opening:,.0f}",
        "events, one at a time": f"{len(spans)}",
        "until all streams have it, median": f"{statistics.median(spans) * 1000:.1f} ms",
        "until all streams have it, p99": f"{p99 * 1000:.1f} ms",
        "server CPU per delivery": f"{used / (len(spans) * streams) * 1e6:.1f} us",
    }
