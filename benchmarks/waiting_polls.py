"""What requests cost that wait for an item: memory, processor time, and what others wait meanwhile.

    uv run benchmarks/waiting_polls.py [--polls 10000] [--places 1]

A server in a process of its own has one feed of a SQLite table. So many clients poll it at the same
place, or at ``--places`` different ones. Then one row is written. Another client asks for a page
every 20 ms all the while.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def application(path: str):
    import sqlalchemy as sa
    from fastapi import FastAPI
    from pydantic import BaseModel

    from headwater.sql import Table, sqlite_engine, track
    from headwater.web.fastapi import LiveRouter, StreamLimits

    class Item(BaseModel):
        id: int
        text: str

    metadata = sa.MetaData()
    things = sa.Table(
        "things",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
    )
    track()(things)
    engine = sqlite_engine(f"sqlite:///{path}")
    live = LiveRouter(limits=StreamLimits(per_caller=None, per_address=None))
    table = Table(engine, things)

    @live.feed("/things", item=Item)
    async def feed():
        return table.where()

    async def write(number: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(things.insert(), [{"text": "x" * 200} for _ in range(number)])

    async def counted() -> dict[str, float]:
        used = time.process_time()
        with open("/proc/self/status") as status:
            size = next(line for line in status if line.startswith("VmRSS"))
        return {
            "cpu": used, "mb": int(size.split()[1]) / 1024, "waiting": live.stats.waiting
        }  # fmt: skip

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await write(200)
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    app.include_router(live)
    app.post("/write")(write)
    app.get("/counted")(counted)
    return app


def serve(port: int, path: str) -> None:
    import uvicorn

    from headwater.web.uvicorn import Protocol

    uvicorn.run(application(path), port=port, http=Protocol, log_level="warning")


async def ask(port: int, path: str, method: str = "GET") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return (await reader.read()).partition(b"\r\n\r\n")[2]
    finally:
        writer.close()


def content(answer: bytes):
    """The JSON of an answer, whether it came in chunks or whole."""
    return json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])


async def measure(port: int, polls: int, places: int) -> None:
    async def counted():
        return content(await ask(port, "/counted"))

    newest = content(await ask(port, "/things?limit=1"))["position"]
    # Polls wait at the end: different limits stand for different places there.
    paths = [f"/things?after={newest}&wait=60&limit={at % 100 + 1}" for at in range(places)]
    before = await counted()
    tasks = []
    for at in range(0, polls, 200):
        tasks += [
            asyncio.create_task(ask(port, paths[n % places]))
            for n in range(at, min(at + 200, polls))
        ]
        while (now := await counted())["waiting"] < len(tasks):
            await asyncio.sleep(0.01)
    print(
        f"{polls:,} polls at {places} places wait: {now['mb'] - before['mb']:.0f} MB more, "
        f"{(now['cpu'] - before['cpu']) / polls * 1e6:.0f} µs of processor time each to open"
    )
    idle = await counted()
    await asyncio.sleep(5)
    rested = await counted()
    print(f"while they wait: {(rested['cpu'] - idle['cpu']) / 5 * 100:.1f} % of a core")
    slowest: list[float] = []
    asking = True

    async def others() -> None:
        while asking:
            began = time.perf_counter()
            await ask(port, "/things?limit=5")
            slowest.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)

    other = asyncio.create_task(others())
    await asyncio.sleep(0.5)
    alone, slowest[:] = max(slowest), []
    began, used = time.perf_counter(), (await counted())["cpu"]
    await ask(port, "/write?number=1", "POST")
    answers = await asyncio.gather(*tasks)
    took = time.perf_counter() - began
    used = (await counted())["cpu"] - used
    asking = False
    await other
    assert all(b'"text"' in answer for answer in answers)
    print(
        f"one item: all are answered after {took:.2f} s, {used / polls * 1e6:.0f} µs of processor "
        f"time each; another client's page took {max(slowest) * 1000:.0f} ms at most, "
        f"{alone * 1000:.0f} ms before"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polls", type=int, default=10_000)
    parser.add_argument("--places", type=int, default=1)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(int(asked.serve[0]), asked.serve[1])
        return
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, __file__, "--serve", str(port), str(Path(folder) / "data.db")]
        process = subprocess.Popen(command, env=os.environ)
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            asyncio.run(measure(port, asked.polls, asked.places))
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    main()
