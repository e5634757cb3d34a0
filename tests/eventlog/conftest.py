"""One server of each engine for all tests of a module."""

from __future__ import annotations

import asyncio
import subprocess
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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Of an authority that nobody knows."""
    folder = tmp_path_factory.mktemp("tls")
    key, found = str(folder / "key.pem"), str(folder / "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-keyout", key, "-out", found, "-subj", "/CN=127.0.0.1"],
        check=True,
        capture_output=True,
    )
    return key, found
