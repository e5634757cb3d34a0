"""A server as a process, for the tests that look at it from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving import Server  # noqa: E402 - found through the line above


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    """A running server with one admin, one team and one satellite."""
    server = Server(tmp_path)
    try:
        server.seed()
        yield server
    finally:
        server.close()
