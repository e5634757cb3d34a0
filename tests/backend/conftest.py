"""A backend for each test, on a copy of one migrated database."""

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


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "empty.db"
    migrate(Address(path))
    return path


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """One application, started anew for each test: making it takes longer than most tests."""
    return create_app(cheap(tmp_path_factory.mktemp("standing") / "headwater.db"))


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Path:
    """A migrated database, for an application with settings of its own."""
    return Path(shutil.copy(migrated, tmp_path / "headwater.db"))


@pytest.fixture
def settings(migrated: Path, standing: FastAPI) -> Settings:
    """Those of the standing application, whose database is empty again."""
    found: Settings = standing.state.settings
    path = Address.parse(found.database).path
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.copy(migrated, path)
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
