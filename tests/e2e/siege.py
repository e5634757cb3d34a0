"""A client as the standard has it, counted, and the process of those that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from attackers import BROKEN, connection
from running import Running

from headwater.protocol import Decoder

__all__ = ["EventSource", "Siege"]


class EventSource:
    """A client as the WHATWG text has it: any status but 200 ends it for good.

    Attributes:
        told: the messages of the items, in order.
        ended: the status that ended it for good, or 0.
        opened: how often it was connected.
        resets: how often it was told to begin anew.
    """

    def __init__(self, port: int, path: str, headers: dict[str, str], key: str = "message") -> None:
        self._port = port
        self._path = path
        self._headers = headers
        self._key = key
        self._retry = 1.0
        self._decoder = Decoder()
        self.last_id = ""
        self.told: list[Any] = []
        self.ended = self.opened = self.resets = 0

    async def run(self) -> None:
        """Follow until it is cancelled, or ended for good."""
        while not self.ended:
            with contextlib.suppress(*BROKEN):
                await self._visit()
            await asyncio.sleep(self._retry)  # as the server said

    async def _visit(self) -> None:
        async with connection(self._port) as (reader, writer):
            headers = dict(self._headers)
            if self.last_id:
                headers["Last-Event-ID"] = self.last_id
            lines = [f"GET {self._path} HTTP/1.1", "Host: 127.0.0.1"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status != 200:
                self.ended = status
                return
            self.opened += 1
            # By the standard what was not whole is dropped with the connection.
            self._decoder = Decoder(last_event_id=self.last_id)
            chunked = b"transfer-encoding: chunked" in head.lower()
            while data := await (_chunk(reader) if chunked else reader.read(2**16)):
                for message in self._decoder.feed(data):
                    self.last_id = message.last_event_id
                    self.resets += message.event == "reset"
                    if message.event == "log":
                        self.told.append(json.loads(message.data)[self._key])
                if self._decoder.retry is not None:
                    self._retry = self._decoder.retry / 1000


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readuntil(b"\r\n")).strip(), 16)
    return (await reader.readexactly(size + 2))[:-2]


class Siege:
    """So many attackers, of seven kinds, that come again and again, in a process of their own.

    What the good clients wait for is then the server, and not the attackers' own work.

    Arguments:
        pause: seconds between two visits of one attacker, at most; a hundredth of it at least.
    """

    def __init__(self, server: Running, number: int, pause: float) -> None:
        self._plan = {
            "port": server.port,
            "number": number,
            "pause": pause,
            "headers": server.headers,
            "position": server.api.get("/api/logs?limit=1").json()["position"],
        }
        self._process: subprocess.Popen[str] | None = None

    async def begin(self) -> None:
        """Until attackers of each kind have come."""
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("attackers.py"), json.dumps(self._plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert await self._line() == "all have come\n"

    async def end(self) -> dict[str, int]:
        """The visits, by kind."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            return json.loads(await self._line())
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    async def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), 120)
