"""The two ends of a connection, as an ASGI scope has them."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from headwater.web._addresses import plain


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
        return transport.get_extra_info("sockname"), transport.get_extra_info("peername"), number
    # uvloop makes a socket for each of the two questions; here it is one for both.
    try:
        asked = socket.SocketType(fileno=number)
    except (OSError, ValueError):
        return None, None, number
    try:
        return asked.getsockname(), asked.getpeername(), number
    except OSError:
        return None, None, number
    finally:
        asked.detach()


def _address(end: Any) -> tuple[str, int] | None:
    return (plain(str(end[0])), int(end[1])) if isinstance(end, (tuple, list)) else None
