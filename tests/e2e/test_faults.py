"""What goes wrong around a running server: its database, its clients, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Running

from support.http import Answer, request
from support.until import outside

pytestmark = pytest.mark.long

LOGS = "/api/logs/stream"


async def log_line(server: Running, message: str) -> httpx.Response:
    entry = {"entries": [{"message": message}]}
    return await asyncio.to_thread(server.api.post, "/api/logs", json=entry)


async def tells(stream: Answer, *messages: str) -> None:
    for message in messages:
        told = await stream.next()
        assert (told.event, json.loads(told.data)["message"]) == ("log", message)


def is_outage(answer: httpx.Response) -> bool:
    """A 503 as a problem that says when to come back."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.json()["status"] == answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    return True


async def until_up(server: Running) -> None:
    """Until the server says that it is ready again."""

    async def ready() -> bool:
        return (await asyncio.to_thread(server.api.get, "/readyz")).status_code == 200

    await outside(ready)


# While it runs


def moved(server: Running, away: bool) -> None:
    for suffix in ("", "-wal", "-shm"):
        here, there = f"{server.database}{suffix}", f"{server.database}.away{suffix}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(*((here, there) if away else (there, here)))


def replaced(server: Running, away: bool) -> None:
    """By a file that is no database."""
    if away:
        moved(server, away)
        server.database.write_bytes(b"this is not a database, but long enough " * 100)
    else:
        server.database.unlink()
        moved(server, away)


@pytest.mark.parametrize("fault", [moved, replaced])
async def test_a_database_that_is_away_for_a_while(shared: Running, fault: Any):
    """REST says 503, the streams wait, and go on where they were."""
    path = f"/api/satellites/{shared.satellite_id}/metrics/stream"
    async with (
        request(shared.port, LOGS, headers=shared.headers) as stream,
        request(shared.port, path, headers=shared.headers) as metrics,
    ):
        await stream.next()
        await metrics.next()
        await log_line(shared, "before")
        await tells(stream, "before")
        fault(shared, True)
        answers = [
            await asyncio.to_thread(shared.api.get, "/api/logs"),
            await log_line(shared, "lost"),
            await asyncio.to_thread(shared.api.get, path.removesuffix("/stream")),
        ]
        assert all(is_outage(answer) for answer in answers)
        async with request(shared.port, LOGS, headers=shared.headers) as refused:
            # Its client is a browser: any status but 200 would end it for good.
            assert refused.status == 200
            assert refused.headers["retry-after"] == "2"
            body = await refused.body()
            assert body.startswith(b"retry: 2000\n: ")
            assert body.endswith(b"\n\n")
        # Its answer is kept for a moment.
        await outside(lambda: shared.api.get("/readyz").status_code == 503)
        assert (await asyncio.to_thread(shared.api.get, "/healthz")).status_code == 200
        fault(shared, False)
        await asyncio.to_thread(shared.insert, "by SQL while nobody looked")
        await tells(stream, "by SQL while nobody looked")
        await until_up(shared)
        assert (await log_line(shared, "after")).status_code == 201
        await tells(stream, "after")
        await asyncio.to_thread(shared.report, 3.0)
        assert json.loads((await metrics.next()).data)["cpu_percent"] == 3.0
    assert shared.complaints() == []


async def test_a_writer_that_keeps_the_lock_for_long(shared: Running):
    """Who writes is told 503; who reads or follows does not notice."""
    with contextlib.closing(sqlite3.connect(shared.database, isolation_level=None)) as other:
        async with request(shared.port, LOGS, headers=shared.headers) as stream:
            await stream.next()
            other.execute("BEGIN IMMEDIATE")
            other.execute(
                "INSERT INTO log_entries (user_id, message) VALUES (?, 'long')", (shared.user_id,)
            )
            posted = asyncio.create_task(log_line(shared, "too late"))
            body = await asyncio.to_thread(shared.api.get, "/api/logs")
            assert body.status_code == 200
            assert "long" not in [entry["message"] for entry in body.json()["logs"]]
            assert is_outage(await posted)
            other.execute("COMMIT")
            await tells(stream, "long")
            assert (await log_line(shared, "in time")).status_code == 201
            await tells(stream, "in time")
    assert shared.complaints() == []


async def test_a_disk_that_is_full_for_a_while(shared: Running):
    """A bound on the size of files stands for the end of the disk: no more can be written."""
    pid = shared.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    async with request(shared.port, LOGS, headers=shared.headers) as stream:
        await stream.next()
        await log_line(shared, "before")
        await tells(stream, "before")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))
        assert is_outage(await log_line(shared, "lost"))
        assert is_outage(await log_line(shared, "x" * 10_000))
        body = await asyncio.to_thread(shared.api.get, "/api/logs")
        assert [entry["message"] for entry in body.json()["logs"]][-1] == "before"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        assert (await log_line(shared, "after")).status_code == 201
        await tells(stream, "after")
    assert shared.complaints() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of six megabytes, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount the small disk that gets full")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_disk_without_room(seeded: Path, small_disk: Path, tmp_path: Path):
    server = Running(seeded, small_disk)
    # The log is not to share the disk's fate.
    server.log_file = tmp_path / "server.log"
    with contextlib.closing(server):
        await asyncio.to_thread(server.start)
        async with request(server.port, LOGS, headers=server.headers) as stream:
            await stream.next()
            ballast = small_disk / "ballast"
            with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"\0" * 4096)
            written = 0
            while (answer := await log_line(server, "x" * 4000)).status_code == 201:
                written += 1
                await tells(stream, "x" * 4000)
            assert is_outage(answer)
            assert (await asyncio.to_thread(server.api.get, "/api/logs")).status_code == 200
            ballast.unlink()
            assert (await log_line(server, "room again")).status_code == 201
            await tells(stream, "room again")
        assert server.complaints() == []


# Before it runs


def bad_start(server: Running, *arguments: str) -> str:
    """``headwater serve`` that cannot be; the one sentence it says."""
    done = subprocess.run(
        [*server.command, *arguments],
        env=server._environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = done.stderr.strip()
    assert done.returncode == 1, (done.returncode, done.stdout, said)
    assert said.count("\n") == 0, said
    assert "Traceback" not in said
    assert said.endswith("."), said
    assert done.stdout == ""
    return said


async def test_a_start_that_cannot_be_says_why_in_one_sentence(
    shared: Running, seeded: Path, tmp_path: Path
):
    """As whole commands; ``tests/backend/test_schema.py`` has the other reasons."""
    with contextlib.ExitStack() as stack:

        def prepared(name: str) -> Running:
            folder = tmp_path / name
            folder.mkdir()
            return stack.enter_context(contextlib.closing(Running(seeded, folder)))

        newer, locked = map(prepared, ("newer", "locked"))
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
        other = stack.enter_context(
            contextlib.closing(sqlite3.connect(locked.database, isolation_level=None))
        )
        other.execute("BEGIN IMMEDIATE")
        starts = {
            "newer version": (newer,),
            "locked by another program": (locked,),
            f"Port {shared.port}": (shared,),
        }
        said = await asyncio.gather(
            *(asyncio.to_thread(bad_start, *arguments) for arguments in starts.values())
        )
    for part, sentence in zip(starts, said, strict=True):
        assert part in sentence
    assert shared.complaints() == []


# Its clients


async def vanish(server: Running, rng: random.Random) -> None:
    """A client that is gone at some moment of its request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    waits = "/api/notifications?wait=30"
    paths = [LOGS, waits, "/api/notifications/stream", "/api/logs", "/api/nothing"]
    paths.append(f"/api/satellites/{server.satellite_id}/metrics/stream")
    paths.append(f"/api/users/me/mcp/client-activity/stream?team_id={server.team_id}")
    path = rng.choice(paths)
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in server.headers.items()]
    sent = "\r\n".join(lines).encode() + b"\r\n\r\n"
    way = rng.randrange(5)
    if way == 0:
        sent = sent[: rng.randrange(len(sent))]
    elif way == 1:
        sent = sent.replace(b"GET", b"POST", 1)[:-2] + b"Content-Length: 500\r\n\r\n{"
    writer.write(sent)
    await writer.drain()
    if way == 2 and path != waits:
        await reader.read(1)
    elif way == 3 and path != waits:
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(rng.randrange(20)):
            await asyncio.sleep(0)
    if way == 4:
        writer.close()
    else:
        writer.transport.abort()


async def test_clients_that_vanish_leave_nothing_behind(shared: Running):
    """At any moment: within the request, during a database call, on an open stream."""
    rng = random.Random(5)
    files = Path(f"/proc/{shared.process.pid}/fd")
    for _ in range(8):
        await asyncio.gather(*(vanish(shared, rng) for _ in range(25)))
        await asyncio.to_thread(shared.log, "meanwhile")

    async def none_open() -> bool:
        return not await asyncio.to_thread(shared.measured, "headwater_streams_open")

    await outside(none_open)
    # The connections of the pool, some pipes and the log; nothing of two hundred clients.
    await outside(lambda: not files.exists() or len(list(files.iterdir())) <= 60)
    async with request(shared.port, LOGS, headers=shared.headers) as stream:
        await stream.next()
        await log_line(shared, "still well")
        await tells(stream, "still well")
    assert await asyncio.to_thread(shared.measured, "headwater_streams_open") <= 1
    assert shared.complaints() == []


# Its end


async def test_the_end_is_told_to_each_stream(running: Running):
    """A random time to come back, then the connection closes; new streams are sent away."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(request(running.port, LOGS, headers=running.headers))
            for _ in range(300)
        ]
        for answer in opened:
            await answer.next()
        running.process.terminate()
        refused: dict[str, str] = {}
        with contextlib.suppress(OSError, EOFError):
            while not refused:
                late = request(running.port, LOGS, headers=running.headers)
                async with late as answer:
                    assert answer.status == 200
                    if "retry-after" in answer.headers:
                        refused = answer.headers
        assert int(refused["retry-after"]) > 0
        assert refused["content-type"].startswith("text/event-stream")
        retries = []
        for answer in opened:
            assert await answer.rest() == []
            retries.append(answer.retry)
        assert await asyncio.to_thread(running.process.wait, 20) == 0
    assert all(retry is not None and 500 <= retry <= 5000 for retry in retries)
    assert len(set(retries)) > 100
    assert running.complaints() == []


async def test_the_end_does_not_wait_for_those_who_do_not_read(running: Running):
    """A client that takes no bytes, and one that waits for an item, cannot hold it up."""
    big = {"entries": [{"message": "x" * 10_000} for _ in range(50)]}
    path = "/api/logs?wait=60&after="
    async with (
        request(running.port, LOGS, headers=running.headers, receive_buffer=2048) as deaf,
        request(running.port, "/api/logs", headers=running.headers) as page,
    ):
        assert deaf.status == 200
        position = json.loads(await page.body())["position"]
        for _ in range(10):
            await asyncio.to_thread(running.post, "/api/logs", big)
        position = (await asyncio.to_thread(running.api.get, "/api/logs")).json()["position"]
        waiting = asyncio.create_task(
            asyncio.to_thread(running.api.get, path + position, timeout=90)
        )

        async def waits() -> float:
            return await asyncio.to_thread(running.measured, "headwater_streams_open")

        await outside(waits)
        for _ in range(20):
            # By now the request above waits as well.
            await asyncio.to_thread(running.api.get, "/api/logs")
        running.process.terminate()
        assert await asyncio.to_thread(running.process.wait, 30) == 0
        # It was answered: when the server's patience is over, requests are cut off instead.
        answer = await waiting
        assert (answer.status_code, answer.json()["logs"]) == (200, [])
    assert running.complaints() == []
