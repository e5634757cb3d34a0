"""The socket and the server that `serve` and `demo` build."""

from __future__ import annotations

import socket

import pytest

from headwater.backend.database import StartupError
from headwater.backend.server import address_of, bind, build_server
from support.backend import cheap


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
    from headwater.backend.app import create_app

    settings = cheap(database, shutdown_seconds=7)
    server = build_server(settings, create_app(settings))
    assert server.config.timeout_graceful_shutdown == 7
    assert server.config.log_config is None
    assert server.config.ws == "none"
