"""``headwater serve`` as a process of its own, on a database of its own, with things to show."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from support.until import waited

__all__ = ["Server"]

HEADWATER = str(Path(sys.executable).with_name("headwater"))
SEEDED = ("user_id", "team_id", "satellite_id")
# A start migrates the database; on a busy machine that takes seconds.
STARTS_WITHIN = 60.0
STOPS_WITHIN = 30.0


class Server:
    """A server that can be stopped and started again on the same port and database.

    Attributes:
        folder: of its database and its log.
        port, address: where it listens, such as 4711 and ``http://127.0.0.1:4711``.
        email, password: of the only user, a global admin.
        api: a client that is signed in with an API key of that user.
        user_id, team_id, satellite_id: what ``seed`` made.
    """

    email = "admin@example.org"
    password = "a long enough password"

    def __init__(self, folder: Path, database: str | None = None) -> None:
        port = _free_port()
        self.port = port
        self.address = f"http://127.0.0.1:{port}"
        self.api = httpx.Client(base_url=self.address, timeout=30)
        self._satellite = httpx.Client(base_url=self.address, timeout=30)
        self.log_file = folder / "server.log"
        self.folder = folder
        self._database = folder / "headwater.db"
        self._environment = {
            **os.environ,
            "HEADWATER_DATABASE": database or f"sqlite:///{self._database}",
            "HEADWATER_PORT": str(port),
            # One user stands for many here.
            "HEADWATER_STREAMS_PER_USER": "100000",
            "HEADWATER_WRITES_PER_SECOND": "100000",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.user_id = self.team_id = self.satellite_id = ""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's own, while it was started."""
        assert self._process is not None
        return self._process

    def run(self, *arguments: str, stdin: str = "") -> None:
        """Run one command of ``headwater`` on the same database, to its end."""
        done = subprocess.run(
            [HEADWATER, *arguments],
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=STARTS_WITHIN,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start, and wait until it is ready."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [HEADWATER, "serve"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        waited(self._ready, STARTS_WITHIN, self.log_file.read_text, pause=0.05)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log_file.read_text()
        with contextlib.suppress(httpx.TransportError):
            return self.api.get("/readyz").status_code == 200
        return False

    def stop(self) -> None:
        """End in order, as on a deployment."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(STOPS_WITHIN)

    def kill(self) -> None:
        """End at once, as on a crash."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOPS_WITHIN)

    def freeze(self) -> None:
        """Let it stand still: its connections stay, and nothing is answered."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it if it still runs, and free what the clients hold."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.api.close()
        self._satellite.close()

    def seed(self) -> None:
        """Start for the first time: one admin, one team, one satellite."""
        self.run("migrate")
        self.run(
            *("users", "add", self.email, "--role", "global_admin", "--password-stdin"),
            stdin=f"{self.password}\n",
        )
        self.start()
        self.api.headers["Authorization"] = f"Bearer {self._api_key()}"
        self.user_id = self.api.get("/api/users/me").json()["id"]
        self.team_id = self.post("/api/teams", {"name": "River crossing"})["id"]
        member = f"/api/teams/{self.team_id}/members/{self.user_id}"
        self.api.put(member, json={"role": "team_admin"}).raise_for_status()
        registration = {"name": "spring-01", "team_id": self.team_id}
        satellite = self.post("/api/satellites", registration)
        self.satellite_id = satellite["id"]
        self._satellite.headers["Authorization"] = f"Bearer {satellite['api_key']}"

    def save(self) -> None:
        """Write what ``seed`` made beside the database; for ``load``."""
        made = {name: getattr(self, name) for name in SEEDED}
        keys = [each.headers["Authorization"] for each in (self.api, self._satellite)]
        (self.folder / "seeded.json").write_text(json.dumps([made, keys]))

    def load(self, seeded: Path) -> None:
        """Take over the database and the keys that another server saved there and left."""
        if not self._database.exists():
            for file in seeded.glob("headwater.db*"):
                shutil.copy(file, self.folder)
        made, keys = json.loads((seeded / "seeded.json").read_text())
        for name, value in made.items():
            setattr(self, name, value)
        self.api.headers["Authorization"], self._satellite.headers["Authorization"] = keys

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Create something as the admin; the answer's body."""
        return self.api.post(path, json=body).raise_for_status().json()

    def log(self, *messages: str, level: str = "info") -> None:
        """Write log lines, one after another in one request."""
        entries = [{"level": level, "source": "test", "message": m} for m in messages]
        self.post("/api/logs", {"entries": entries})

    def insert(self, *messages: str) -> None:
        """Write log lines with plain SQL, as another program does, also while no server runs."""
        self._execute(
            "INSERT INTO log_entries (user_id, source, message) VALUES (?, 'sql', ?)",
            [(self.user_id, message) for message in messages],
        )

    def forget(self, client_name: str) -> None:
        """Delete an MCP client's row with plain SQL."""
        self._execute("DELETE FROM client_activity WHERE client_name = ?", [(client_name,)])

    def empty(self) -> None:
        """Delete what is in the feeds, with plain SQL. Reports stay in the event log."""
        for table in ("log_entries", "notifications", "client_activity"):
            self._execute(f"DELETE FROM {table}", [()])

    def notify(self, title: str, *, team: bool = False) -> None:
        """Notify the admin, or the team."""
        whom = {"team_id": self.team_id} if team else {"user_id": self.user_id}
        self.post("/api/notifications", {**whom, "level": "info", "title": title, "body": "…"})

    def report(self, cpu_percent: float, ago: float = 0.0) -> None:
        """Report metrics as the satellite, measured ``ago`` seconds ago."""
        report = {
            "at": (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(),
            "cpu_percent": cpu_percent,
            "memory_mb": 512.0,
            "requests_per_s": 10.0,
            "errors_per_s": 0.0,
        }
        path = f"/api/satellites/{self.satellite_id}/metrics"
        self._satellite.post(path, json={"reports": [report]}).raise_for_status()

    def use(self, client_name: str, requests: int = 1) -> None:
        """Report, as the satellite, that the admin used an MCP client."""
        activity = {
            "user_id": self.user_id,
            "team_id": self.team_id,
            "client_name": client_name,
            "requests": requests,
            "tool_calls": 1,
        }
        path = f"/api/satellites/{self.satellite_id}/client-activity"
        self._satellite.post(path, json={"activities": [activity]}).raise_for_status()

    def _execute(self, statement: str, rows: list[tuple[str, ...]]) -> None:
        with contextlib.closing(sqlite3.connect(self._database, timeout=30)) as database:
            database.executemany(statement, rows)
            database.commit()

    def _api_key(self) -> str:
        """A key from a session that is used for nothing else."""
        with httpx.Client(base_url=self.address, headers={"Origin": self.address}) as client:
            pair = {"email": self.email, "password": self.password}
            client.post("/api/auth/login", json=pair).raise_for_status()
            answer = client.post("/api/users/me/api-keys", json={"name": "tests"})
            return str(answer.raise_for_status().json()["api_key"])


def _free_port() -> int:
    """A port below those that the system gives to clients, which could take it during a restart."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
