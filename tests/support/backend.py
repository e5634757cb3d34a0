"""A whole backend in this process, with users in it, asked over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from headwater.backend.app import create_app
from headwater.backend.settings import Settings
from headwater.backend.state import Backend
from support.server import serving

PASSWORD = "a secret of some length"


def cheap(path: Path, **settings: Any) -> Settings:
    """Settings for a test: argon2 at its least, and nothing from the environment."""
    return Settings(
        **{
            "database": f"sqlite:///{path}",
            "event_log": None,
            "argon2_time_cost": 1,
            "argon2_memory_kib": 8,
            "cleanup_seconds": 3600,
            "writes_per_second": 100_000,
            **settings,
        }
    )


class World:
    """One running application.

    Attributes:
        clients: opened by ``client`` and ``user``; closed at the end.
    """

    def __init__(self, app: FastAPI, stack: AsyncExitStack) -> None:
        self.app = app
        self._stack = stack
        self.anyone = self.client()

    @property
    def backend(self) -> Backend:
        return self.app.state.backend

    def client(self, *, key: str | None = None, **headers: str) -> httpx.AsyncClient:
        """A client with an API key, or with no credentials."""
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        made = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://test", headers=headers
        )
        self._stack.push_async_callback(made.aclose)
        return made

    async def user(self, name: str, role: str = "global_user") -> Person:
        """A new user, signed in."""
        email = f"{name}@example.com"
        row = await self.backend.users.create(email, PASSWORD, role)
        client = self.client()
        answer = await client.post("/api/auth/login", json={"email": email, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        return Person(row.id, email, client)

    async def admin(self) -> Person:
        return await self.user("admin", "global_admin")

    async def team(self, *members: Person, name: str = "Platform", role: str = "team_user") -> str:
        """A new team with these members; its id."""
        team = await self.backend.teams.create(name)
        for member in members:
            await self.backend.teams.put_member(team.id, member.id, role)
        return team.id

    async def satellite(self, admin: Person, team_id: str | None = None) -> Agent:
        answer = await admin.client.post(
            "/api/satellites", json={"name": "north-1", "team_id": team_id}
        )
        assert answer.status_code == 201, answer.text
        return Agent(answer.json()["id"], self.client(key=answer.json()["api_key"]))


class Person:
    def __init__(self, user_id: str, email: str, client: httpx.AsyncClient) -> None:
        self.id = user_id
        self.email = email
        self.client = client

    @property
    def cookie(self) -> str:
        """The session's header, for clients other than httpx."""
        return f"session={self.client.cookies['session']}"


class Agent:
    def __init__(self, satellite_id: str, client: httpx.AsyncClient) -> None:
        self.id = satellite_id
        self.client = client


@asynccontextmanager
async def running(settings: Settings, app: FastAPI | None = None) -> AsyncIterator[World]:
    """An application on a migrated database, asked without a socket."""
    app = app or create_app(settings)
    async with app.router.lifespan_context(app), AsyncExitStack() as stack:
        yield World(app, stack)


@asynccontextmanager
async def listening(
    settings: Settings, app: FastAPI | None = None
) -> AsyncIterator[tuple[World, int]]:
    """The same under uvicorn, for streams. Gives the port too."""
    app = app or create_app(settings)
    async with serving(app) as port, AsyncExitStack() as stack:
        yield World(app, stack), port


def errors_of(answer: httpx.Response) -> dict[str, dict[str, Any]]:
    """The errors of a 422 by field."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {error["field"]: error for error in answer.json()["errors"]}
