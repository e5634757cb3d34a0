"""What the peer of a connection has taken, by the kernel's count.

A transport sees its peer read only in steps of many kilobytes: of the kernel's buffer. A client
that reads a few bytes a second would seem to read nothing for a minute.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

if sys.platform != "win32":
    from fcntl import ioctl
    from termios import TIOCOUTQ

# Where `tcpi_bytes_acked` is in Linux's `struct tcp_info`.
_ACKNOWLEDGED = slice(120, 128)


def acknowledged(transport: asyncio.Transport) -> int | None:
    """Bytes that a peer of TCP has acknowledged; None where the system does not say."""
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return None
    with suppress(OSError):
        known = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.stop)
        if len(known) == _ACKNOWLEDGED.stop:
            return int.from_bytes(known[_ACKNOWLEDGED], sys.byteorder)
    return None


def taken(transport: asyncio.Transport) -> int | None:
    """A number that changes when the peer takes bytes for which the transport waits.

    None where the system has none.
    """
    found = acknowledged(transport)
    sock = transport.get_extra_info("socket")
    if found is not None or sock is None or sys.platform == "win32":
        return found
    with suppress(OSError, ValueError):
        # Of a Unix socket: bytes that the kernel has and the peer has not read.
        return int.from_bytes(ioctl(sock.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)
    return None
