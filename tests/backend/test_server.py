"""The socket and the server that `serve` and `demo` build."""

from __future__ import annotations

import socket

import httpx
import pytest
from fastapi import Request

from headwater.backend.app import create_app
from headwater.backend.database import StartupError
from headwater.backend.server import address_of, bind, build_server
from headwater.web._addresses import network_of
from headwater.web.fastapi import LiveRouter
from support.backend import cheap
from support.server import Server, answering


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
def test_connections_take_over_when_a_dead_peer_is_dropped():
    with bind("127.0.0.1", 0) as listener, socket.socket() as client:
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


def test_the_address_is_one_for_a_browser():
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener) == f"http://127.0.0.1:{port}"
    with bind("0.0.0.0", 0) as listener:
        assert address_of(listener).startswith("http://127.0.0.1:")
    with bind("localhost", 0) as listener:
        assert address_of(listener).startswith("http://")


@pytest.mark.parametrize(
    ("host", "says"), [("192.0.2.1", "not an address of this machine"), ("no such host", "--host")]
)
def test_an_address_that_cannot_be_had(host: str, says: str):
    with pytest.raises(StartupError, match=says):
        bind(host, 0)


def test_it_does_not_listen_before_the_server_is_ready():
    """Whoever waited in the kernel during a start would be served in one moment with all others."""
    with bind("127.0.0.1", 0) as listener, socket.socket() as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(listener.getsockname())


def test_a_port_is_had_once():
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        with pytest.raises(StartupError, match="in use.*--port"):
            bind("127.0.0.1", listener.getsockname()[1])


def test_its_end_is_bounded(database):
    settings = cheap(database, shutdown_seconds=7)
    server = build_server(settings, create_app(settings))
    assert server.config.timeout_graceful_shutdown == 7
    assert server.config.log_config is None
    assert server.config.ws == "none"


async def test_a_proxy_is_trusted_however_its_address_is_written(database):
    """A socket for both families, as `--host ::` makes, names a client of IPv4 by IPv6."""
    found: list[str] = []

    def declare(live: LiveRouter) -> None:
        @live.get("/who")
        async def who(request: Request) -> None:
            found.append(network_of(request.client and request.client.host))

    settings = cheap(database, proxy_addresses="127.0.0.1,10.1.0.0/8")
    config = build_server(settings, create_app(settings, declare=declare)).config
    chains = [
        "203.0.113.9",
        "198.51.100.1, 203.0.113.9, 127.0.0.1",
        "203.0.113.9, ::ffff:127.0.0.1",
        "unknown, 203.0.113.9, ::ffff:10.1.2.3,10.9.9.9",
        "::ffff:203.0.113.9",
        "203.0.113.9:4711",
    ]
    with bind("::", 0) as listener:
        async with answering(Server(config), listener) as port, httpx.AsyncClient() as client:
            for chain in chains:
                headers = {"X-Forwarded-For": chain}
                await client.get(f"http://127.0.0.1:{port}/api/who", headers=headers)
    assert found == ["203.0.113.9"] * len(chains)
