"""One server of each engine for all tests of a module."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from support.nats import Nats
from support.valkey import Valkey


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    asyncio.run(server.start())
    yield server
    server.stop()


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    server = Nats(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server
    server.stop()
