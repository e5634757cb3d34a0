"""A server as a process, for the tests that see it from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.once import made_once

sys.path.insert(0, str(Path(__file__).parent))

from running import Running  # noqa: E402 - found through the line above
from serving import Server  # noqa: E402


def seed(folder: Path) -> None:
    server = Server(folder)
    try:
        server.seed()
        server.stop()
        server.save()
    finally:
        server.close()


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a database with one admin, one team and one satellite."""
    return made_once(tmp_path_factory, "seeded", seed)


@pytest.fixture
def served(seeded: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that runs on a copy of it."""
    server = Server(tmp_path)
    server.load(seeded)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def running(seeded: Path, tmp_path: Path) -> Iterator[Running]:
    """The same, with its log and counters; checks of them are the test's own."""
    yield from _started(Running(seeded, tmp_path))


@pytest.fixture(scope="module")
def shared(seeded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for the tests of a module that leave it running: a start takes seconds."""
    yield from _started(Running(seeded, tmp_path_factory.mktemp("shared")))


def _started(server: Running) -> Iterator[Running]:
    try:
        server.start()
        yield server
    finally:
        server.close()
