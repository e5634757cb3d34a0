"""A backend for each test, on a copy of one migrated database: SQLite, and PostgreSQL too."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from headwater.backend.app import create_app
from headwater.backend.database import Address
from headwater.backend.schema import migrate
from headwater.backend.settings import Settings
from support.backend import Person, World, cheap, listening, running
from support.postgres import Postgres


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "empty.db"
    migrate(Address(path))
    return path


@pytest.fixture(scope="session")
def applications(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FastAPI]:
    """One application for each kind of database, started anew for each test.

    Making it takes longer than most tests.
    """
    path = tmp_path_factory.mktemp("standing") / "headwater.db"
    return {"sqlite": create_app(cheap(path))}


@pytest.fixture(scope="session")
def migrated_server(postgres: Postgres) -> Postgres:
    """A server with one migrated database, ``migrated``, to be copied."""
    migrate(Address.parse(postgres.url(postgres.database("migrated"))))
    return postgres


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Path:
    """A migrated database, for an application with settings of its own."""
    return Path(shutil.copy(migrated, tmp_path / "headwater.db"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def standing(
    request: pytest.FixtureRequest,
    migrated: Path,
    applications: dict[str, FastAPI],
    tmp_path: Path,
) -> FastAPI:
    """An application whose database is empty again."""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("migrated_server")
        server.database("standing", template="migrated")
        if "postgresql" not in applications:
            made = cheap(Path(), database=server.url("standing"))
            applications["postgresql"] = create_app(made)
        return applications["postgresql"]
    # A path of its own: a late connection to another file that was at the same path would take
    # this one's journal away.
    path = shutil.copy(migrated, tmp_path / "standing.db")
    found = applications["sqlite"]
    found.state.settings = cheap(path)
    return found


@pytest.fixture
def settings(standing: FastAPI) -> Settings:
    """Those of the standing application."""
    found: Settings = standing.state.settings
    return found


@pytest.fixture
async def world(settings: Settings, standing: FastAPI) -> AsyncIterator[World]:
    async with running(settings, standing) as found:
        yield found


@pytest.fixture
async def served(settings: Settings, standing: FastAPI) -> AsyncIterator[tuple[World, int]]:
    async with listening(settings, standing) as found:
        yield found


@pytest.fixture
async def admin(world: World) -> Person:
    return await world.admin()


@pytest.fixture
async def ann(world: World) -> Person:
    return await world.user("ann")


@pytest.fixture
async def bob(world: World) -> Person:
    return await world.user("bob")
