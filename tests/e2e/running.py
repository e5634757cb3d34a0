"""A server as a process, with what a sceptic wants to know of it: its log, counters and people."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import httpx
from serving import HEADWATER, Server

__all__ = ["Person", "Running"]


class Person:
    """A user who is signed in.

    Attributes:
        api: a client with the user's session.
    """

    def __init__(self, user_id: str, email: str, api: httpx.Client) -> None:
        self.id = user_id
        self.email = email
        self.api = api

    @property
    def headers(self) -> dict[str, str]:
        """For clients that are not httpx."""
        return {"Cookie": f"session={self.api.cookies['session']}"}


class Running(Server):
    """One process on a copy of another server's database.

    Arguments:
        seeded: the folder of a database that another server has left, if there is one.
        folder: of the database. Two servers with one folder share it.
        settings: further settings by their name, in lower case.

    Attributes:
        database: the file.
    """

    def __init__(self, seeded: Path | None, folder: Path, **settings: object) -> None:
        super().__init__(folder)
        self.database = self._database
        self.command = [HEADWATER, "serve"]
        # Each server has a log of its own, also where two share a folder.
        self.log_file = folder / f"server-{self.port}.log"
        self._clients: list[httpx.Client] = []
        self._environment |= {f"HEADWATER_{k.upper()}": str(v) for k, v in settings.items()}
        if seeded is not None:
            self.load(seeded)

    @property
    def headers(self) -> dict[str, str]:
        """The admin's, for clients that are not httpx."""
        return {"Authorization": self.api.headers["Authorization"]}

    @property
    def satellite_headers(self) -> dict[str, str]:
        return {"Authorization": self._satellite.headers["Authorization"]}

    def close(self) -> None:
        super().close()
        for client in self._clients:
            client.close()

    def client(self, **headers: str) -> httpx.Client:
        """A client that is nobody yet; its unsafe requests come from the server's own page."""
        made = httpx.Client(
            base_url=self.address, headers={"Origin": self.address, **headers}, timeout=30
        )
        self._clients.append(made)
        return made

    def person(self, name: str, role: str = "global_user") -> Person:
        """A new user, signed in."""
        email, password = f"{name}@example.org", "another long password"
        made = self.post("/api/users", {"email": email, "password": password, "role": role})
        person = Person(made["id"], email, self.client())
        self.sign_in(person)
        return person

    def sign_in(self, person: Person) -> None:
        pair = {"email": person.email, "password": "another long password"}
        person.api.post("/api/auth/login", json=pair).raise_for_status()

    def join(self, person: Person, team_id: str | None = None, role: str = "team_user") -> None:
        """Let a person belong to a team."""
        path = f"/api/teams/{team_id or self.team_id}/members/{person.id}"
        self.api.put(path, json={"role": role}).raise_for_status()

    def execute(self, statement: str, *parameters: object) -> None:
        """Write with plain SQL, as another program does."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as database, database:
            database.execute("PRAGMA foreign_keys = ON")
            database.execute(statement, parameters)

    def said(self) -> str:
        """Everything in its log."""
        return self.log_file.read_text()

    def complaints(self) -> list[str]:
        """What no run may have in its log: tracebacks, and lines at error level."""
        found = []
        for line in self.said().splitlines():
            try:
                entry: dict[str, Any] = json.loads(line)
            except ValueError:
                # What is no JSON was printed: by the command, or by a traceback. A line that a full
                # disk cut off begins as JSON.
                if not line.startswith(("Headwater is at ", "Warning: other machines reach ", "{")):
                    found.append(line)
                continue
            if entry.get("level") in ("error", "critical") or "exception" in entry:
                found.append(line)
        return found

    def measured(self, name: str) -> float:
        """A figure of ``/metrics``."""
        for line in self.api.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split(" ")[1])
        raise KeyError(name)
