"""A server as a process, for the tests that look at it from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import Running  # noqa: E402 - found through the line above
from serving import Server  # noqa: E402


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is set up and stopped: to set one up for each test takes seconds."""
    server = Server(tmp_path_factory.mktemp("seeded"))
    try:
        server.seed()
        server.stop()
        yield server
    finally:
        server.close()


@pytest.fixture
def served(seeded: Server, tmp_path: Path) -> Iterator[Server]:
    """A running server with one admin, one team and one satellite."""
    server = seeded.copy(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def running(seeded: Server, tmp_path: Path) -> Iterator[Running]:
    """The same, with its log and counters; checks of them are the test's own."""
    yield from _started(Running(seeded, tmp_path))


@pytest.fixture(scope="module")
def shared(seeded: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for the tests of a module that leave it running: a start takes seconds."""
    yield from _started(Running(seeded, tmp_path_factory.mktemp("shared")))


def _started(server: Running) -> Iterator[Running]:
    try:
        server.start()
        yield server
    finally:
        server.close()
