"""The two ends of a connection, as an ASGI scope has them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

from headwater.web._addresses import plain

# Bytes that the kernel takes for a client that does not read: without this it takes up to 4 MB a
# connection, which no bound of ours counts. Linux and macOS have the option.
_UNSENT = 16 * 1024
_UNSENT_OPTION: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)


def ends_of(transport: asyncio.Transport) -> tuple[dict[str, Any], int]:
    """The members of a scope that say who is connected to whom, and the file descriptor."""
    here, there, number = _names(transport)
    return {
        "server": _address(here) or ((here, None) if isinstance(here, str) else None),
        "client": _address(there),
        "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
    }, number


def _names(transport: asyncio.Transport) -> tuple[Any, Any, int]:
    sock = transport.get_extra_info("socket")
    number = -1 if sock is None else sock.fileno()
    if type(sock).__module__ != "uvloop.loop":
        if sock is not None:
            _bound(sock)
        return transport.get_extra_info("sockname"), transport.get_extra_info("peername"), number
    # uvloop makes a socket for each call; here it is one for all.
    try:
        asked = socket.SocketType(fileno=number)
    except (OSError, ValueError):
        return None, None, number
    try:
        _bound(asked)
        return asked.getsockname(), asked.getpeername(), number
    except OSError:
        return None, None, number
    finally:
        asked.detach()


def _bound(sock: Any) -> None:
    if _UNSENT_OPTION is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _UNSENT_OPTION, _UNSENT)


def _address(end: Any) -> tuple[str, int] | None:
    return (plain(str(end[0])), int(end[1])) if isinstance(end, (tuple, list)) else None
