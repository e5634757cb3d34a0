"""The configurations of the proxies page, with Debian's packages before a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fronts import FRONTS, Front, certificate
from running import Running

from headwater.protocol import Decoder, Message
from support.until import outside

pytestmark = pytest.mark.long

NAMES = [each.package for each in FRONTS]


class Curl:
    """curl on a stream, by one version of HTTP."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._decoder = Decoder()
        self._messages: list[Message] = []

    async def next(self) -> Message:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while not self._messages:
                data = await self.process.stdout.read(65536)
                assert data, "the stream ended"
                self._messages += self._decoder.feed(data)
        return self._messages.pop(0)


@contextlib.asynccontextmanager
async def curl(front: Front, version: str, path: str, *options: str) -> AsyncIterator[Curl]:
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--no-buffer", f"--{version}", "--cacert", str(front.pem)),
        # What is compressed comes through late, or not at all.
        *("--compressed", *options, front.address + path),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Curl(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    FRONTS[0].program()
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(params=FRONTS, ids=NAMES)
async def front(
    request: pytest.FixtureRequest, tmp_path: Path, pem: Path, shared: Running
) -> AsyncIterator[Front]:
    request.param.program()
    front = request.param(tmp_path, pem, shared.port)
    await front.start()
    yield front
    front.kill()


@pytest.mark.parametrize("version", ["http1.1", "http2"])
async def test_each_event_passes_at_once_and_a_client_that_leaves_is_noticed(
    front: Front, shared: Running, version: str
) -> None:
    """Each line is written after the one before it has come: one that is held back stays out."""
    key = f"Authorization: {shared.headers['Authorization']}"
    before = shared.measured("headwater_streams_open")
    async with curl(front, version, "/api/logs/stream", "--header", key) as client:
        assert (await client.next()).event == "snapshot"
        for number in range(3):
            await asyncio.to_thread(shared.log, f"{version} {number}")
            assert json.loads((await client.next()).data)["message"] == f"{version} {number}"
        assert shared.measured("headwater_streams_open") == before + 1
    await outside(lambda: shared.measured("headwater_streams_open") == before)


async def test_a_request_that_is_refused_early_leaves_the_next_one_alone(
    front: Front, tmp_path: Path
) -> None:
    """HAProxy 2.6 keeps a connection to the server on which a body is not whole."""
    body = tmp_path / "upload"
    body.write_bytes(b" " * 900_000)

    async def status(*options: str, path: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("curl", "--silent", "--http2", "--cacert", str(front.pem), "--max-time", "5"),
            *("--output", "/dev/null", "--write-out", "%{http_code}", *options),
            front.address + path,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        return output.decode()

    for _ in range(5):
        assert await status("--data-binary", f"@{body}", path="/api/logs") == "401"
        assert await status(path="/healthz") == "200"


@pytest.fixture(params=FRONTS, ids=NAMES)
async def front_away(
    request: pytest.FixtureRequest, tmp_path: Path, pem: Path
) -> AsyncIterator[Front]:
    """A proxy whose server does not run."""
    request.param.program()
    front = request.param(tmp_path, pem, 1)
    await front.start()
    yield front
    front.kill()


async def test_while_the_server_is_away_streams_are_told_to_come_back(
    front_away: Front,
) -> None:
    """Only 200 keeps an EventSource alive. Other requests see that something is wrong."""
    for accept, status in (("text/event-stream", 200), ("application/json", 502)):
        process = await asyncio.create_subprocess_exec(
            *("curl", "--silent", "--cacert", str(front_away.pem), "--header", f"Accept: {accept}"),
            *("--write-out", "\n%{http_code} %{content_type}", f"{front_away.address}/api/logs"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        body, _, said = output.decode().rpartition("\n")
        if status == 200:
            assert said == "200 text/event-stream"
            decoder = Decoder()
            decoder.feed(body.encode())
            assert decoder.retry is not None and 1000 <= decoder.retry <= 5000
        else:
            assert said.split()[0] in ("502", "503")
