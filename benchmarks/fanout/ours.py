"""Headwater as its users run it: ``headwater serve``, with sessions and rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.fanout import machine, rows, tools
from benchmarks.fanout.peers import Peer


class Headwater(Peer):
    """The backend on SQLite. A stream is one user's log, asked for with a session cookie.

    Arguments:
        groups: how many users there are.
        counted: count what it asks the database, too.
        workers: processes that serve.
        source: the folder ``src`` of another version; this one's by default.
    """

    name = "Headwater: POST /api/logs"
    kind = "tcp"
    marker = '"message":"'
    ready = "event: snapshot"

    def __init__(
        self,
        groups: int = 1,
        *,
        counted: bool = False,
        workers: int = 1,
        source: Path | None = None,
    ) -> None:
        super().__init__()
        if source is not None:
            self.name = f"{self.name}, before"
        self._source = source
        self._groups = groups
        self._counted = counted
        self._workers = workers
        self.database = self.folder / "headwater.db"

    def command(self) -> list[str]:
        from headwater import __version__

        self.about = f"headwater {__version__}"
        if not self.database.exists():
            tools.run(
                [sys.executable, "-m", "headwater", "migrate", "--database", self._url],
                "migrate",
                environment=self.environment(),
            )
            rows.fill(self.database, self._groups)
        entry = "benchmarks.fanout.counted" if self._counted else "headwater"
        port = str(self.port)
        return [
            *(sys.executable, "-m", entry, "serve", "--port", port, "--database", self._url),
            *("--workers", str(self._workers)),
        ]

    def environment(self) -> dict[str, str]:
        paths = [
            str(tools.HERE.parent.parent),
            *([str(self._source.resolve())] if self._source else []),
        ]
        clean = {name: v for name, v in os.environ.items() if not name.startswith("HEADWATER_")}
        return {
            **clean,
            "PYTHONPATH": os.pathsep.join(paths),
            "HEADWATER_LOG_LEVEL": "warning",
            # One user and one address stand for many here.
            "HEADWATER_STREAMS_PER_USER": "1000000",
            "HEADWATER_WRITES_PER_SECOND": "1000000",
        }

    def request(self) -> bytes:
        return self.asking()

    def asking(self, *headers: str, path: str = "/api/logs/stream?limit=1") -> bytes:
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Cookie: session={rows.session('{G}')}",
            *headers,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def trigger(self, group: int, groups: int, first: int, count: int) -> bytes:
        made = []
        for number in range(group, group + groups):
            entries = [{"message": rows.message(seq)} for seq in range(first, first + count)]
            made.append(_post("/api/logs", rows.api_key(number), {"entries": entries}))
        return b"".join(made)

    def get(self, path: str, group: int = 0) -> tuple[dict[str, Any], str]:
        """A REST answer and its ETag."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            headers={"Cookie": f"session={rows.session(group)}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer), answer.headers["etag"]

    @property
    def _url(self) -> str:
        return f"sqlite:///{self.database}"


class Committed(Headwater):
    """The same, with rows that another program commits."""

    name = "Headwater: a row committed"
    kind = "udp"
    table = "log_entries"

    def __init__(
        self, groups: int = 1, *, counted: bool = False, source: Path | None = None
    ) -> None:
        super().__init__(groups, counted=counted, source=source)
        self._writer: subprocess.Popen[bytes] | None = None
        self._inbox = 0

    def trigger(self, group: int, groups: int, first: int, count: int) -> bytes:
        return Peer.trigger(self, group, groups, first, count)

    @property
    def trigger_port(self) -> int:
        return self._inbox

    def start(self) -> None:
        super().start()
        if self._writer is None:
            self._inbox = machine.free_port()
            self._writer = subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.fanout.writer"),
                    *(str(self.database), str(self._inbox), self.table),
                ],
                env=self.environment(),
                preexec_fn=lambda: machine.pin(machine.CLIENT_CORE),  # noqa: PLW1509 - no thread was started
            )

    def stop(self) -> None:
        if self._writer is not None:
            self._writer.kill()
            self._writer.wait()
            self._writer = None
        super().stop()


class Written(Committed):
    """The same where the kernel has no io_uring, or does not allow it."""

    name = "Headwater: a row committed, no io_uring"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "HEADWATER_IO_URING": "false"}


class Notified(Committed):
    """The same with one row for all: each user has a filter of its own, and all are in a team."""

    name = "Headwater: a row committed"
    table = "notifications"
    marker = '"title":"'

    def request(self) -> bytes:
        return self.asking(path="/api/notifications/stream?limit=1")


class Metrics(Headwater):
    """Events of the event log: what satellites report, and all who may see it follow."""

    name = "Headwater: POST metrics (event log)"
    marker = '"memory_mb":'

    def request(self) -> bytes:
        # One user looks at many satellites.
        return self.asking(path="/api/satellites/s{G}/metrics/stream?limit=1")

    def trigger(self, group: int, groups: int, first: int, count: int) -> bytes:
        made = []
        for number in range(group, group + groups):
            reports = [
                {"cpu_percent": 1.5, "memory_mb": seq, "requests_per_s": 20.5, "errors_per_s": 0.25}
                for seq in range(first, first + count)
            ]
            path = f"/api/satellites/s{number}/metrics"
            made.append(_post(path, rows.satellite_key(number), {"reports": reports}))
        return b"".join(made)


def _post(path: str, key: str, body: Any) -> bytes:
    data = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class PlainList(Peer):
    """FastAPI and SQLAlchemy without Headwater, on the same database."""

    name = "plain FastAPI + SQLAlchemy list"

    def __init__(self, database: Any) -> None:
        super().__init__()
        self._database = database

    def command(self) -> list[str]:
        python = tools.peer_python()
        self.about = f"fastapi {tools.peer_version('fastapi')}"
        options = "--loop uvloop --http httptools --log-level error --no-access-log"
        return [
            *(str(python), "-m", "uvicorn", "plain_list:app", "--app-dir", str(tools.APPS)),
            *("--host", "127.0.0.1", "--port", str(self.port), *options.split()),
        ]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "DATABASE": str(self._database)}
