"""Which files of the package a change passes on its way to a socket.

    uv run python -m benchmarks.walk

Serves one application under ``headwater.web.uvicorn:Protocol`` in this process, and lists the
files that are entered, in the order of the first entry,

- from the commit of a row in SQLite until a stream's client has it;
- the same in PostgreSQL, in a server that is started from the wheel for it;
- from ``stream.send(x)`` in a handler with ``sse=`` until its client has it.

Each way is walked several times before, so that what is done once is not in the list. The rows are
committed by plain drivers, as other programs do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import headwater  # noqa: E402
from headwater import EventStream  # noqa: E402
from headwater.sql import Table, sqlite_engine, track  # noqa: E402
from headwater.web.fastapi import LiveRouter, Source  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.server import serving  # noqa: E402

PACKAGE = str(Path(headwater.__file__).parent) + "/"
WARM_UP = 5
PROTOCOL = "headwater.web.uvicorn:Protocol"

Walk = list[str]


class Base(DeclarativeBase):
    pass


@track()
class Line(Base):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Item(BaseModel):
    id: int
    text: str


class Trace:
    """Notes which files of the package are entered, in whichever thread."""

    def __init__(self) -> None:
        self._files: dict[str, None] | None = None
        # A thread has the profile function that was set when it began.
        threading.setprofile(self._entered)
        sys.setprofile(self._entered)

    def _entered(self, frame: FrameType, event: str, _argument: Any) -> None:
        if self._files is not None and event == "call":
            name = frame.f_code.co_filename
            if name.startswith(PACKAGE):
                self._files.setdefault(name.removeprefix(PACKAGE))

    def start(self) -> None:
        self._files = {}

    def stop(self) -> Walk:
        """The files that were entered since ``start``, in the order of the first entry."""
        files, self._files = self._files, None
        assert files is not None
        return list(files)


@contextlib.asynccontextmanager
async def streaming(port: int, path: str) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """A client of a stream. Gives a function that reads until some bytes have come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())

    async def read(wanted: bytes) -> None:
        async with asyncio.timeout(20):
            await reader.readuntil(wanted)

    yield read
    writer.close()


async def walk_of_a_row(trace: Trace, engine: AsyncEngine, insert: Callable[[str], None]) -> Walk:
    """From a commit to the socket of a feed's stream."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    lines = Table(engine, Line)
    app, live = FastAPI(), LiveRouter(heartbeat=None)

    @live.feed("/lines", item=Item, collection="lines", event="line")
    async def feed() -> Source:
        return lines.where()

    app.include_router(live)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(app, http=PROTOCOL))
        read = await stack.enter_async_context(streaming(port, "/lines/stream"))
        await read(b"event: snapshot")
        for number in range(WARM_UP):
            insert(f"warm {number}")
            await read(f"warm {number}".encode())
            # The tail has come to rest when it waits for the next commit.
            await asyncio.sleep(0.3)
        trace.start()
        insert("the one")
        await read(b"the one")
        walk = trace.stop()
    await engine.dispose()
    return walk


async def walk_of_an_event(trace: Trace) -> Walk:
    """From ``stream.send`` to the socket."""
    app, live = FastAPI(), LiveRouter(heartbeat=None)
    # An empty text ends the handler.
    turns: asyncio.Queue[str] = asyncio.Queue()

    @live.get("/events", sse=True)
    async def events(stream: EventStream) -> None:
        while text := await turns.get():
            if text == "the one":
                trace.start()
            await stream.send({"text": text})

    app.include_router(live)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(app, http=PROTOCOL))
        read = await stack.enter_async_context(streaming(port, "/events"))
        for number in range(WARM_UP):
            turns.put_nowait(f"warm {number}")
            await read(f"warm {number}".encode())
        turns.put_nowait("the one")
        await read(b"the one")
        walk = trace.stop()
        turns.put_nowait("")
    return walk


def show(what: str, walk: Walk) -> None:
    print(f"\n{what}: {len(walk)} files")
    for number, name in enumerate(walk, 1):
        print(f"{number:4} {name}")


async def main() -> None:
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "walk.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:

            def insert(text: str) -> None:
                database.execute("INSERT INTO lines (text) VALUES (?)", (text,))

            show(
                "A row in SQLite",
                await walk_of_a_row(trace, sqlite_engine(f"sqlite+aiosqlite:///{path}"), insert),
            )
    server = Postgres()
    try:
        server.create()
        server.start()
        with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:

            def insert_there(text: str) -> None:
                connection.execute("INSERT INTO lines (text) VALUES (%s)", (text,))

            engine = create_async_engine(server.url("postgres"))
            show("A row in PostgreSQL", await walk_of_a_row(trace, engine, insert_there))
    finally:
        server.remove()
    show("stream.send", await walk_of_an_event(trace))


if __name__ == "__main__":
    asyncio.run(main())
