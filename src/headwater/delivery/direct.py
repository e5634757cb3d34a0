"""The direct sender: bytes straight to the connection's transport, without task or ASGI.

Once a stream is live it needs no task, no request, no middleware and no HTTP parser. The server's
protocol hands the connection over; from then on this object is the connection's protocol. It
writes the same bytes that the server would: HTTP/1.1 chunks.

What many streams share goes to the socket itself where the transport holds nothing back, and to
many sockets at once. Everything else, and what the socket does not take at once, goes through the
transport, which keeps the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Protocol

from headwater.delivery.sender import ROOM, Headers, Sender, Shared

if TYPE_CHECKING:
    from headwater.delivery.stream import Stream

__all__ = ["DirectSender"]

# What the kernel may hold of one stream; Linux doubles it for its own bookkeeping. A client on
# the loopback interface that stops reading would else take megabytes before it is noticed.
_KERNEL = 64 * 1024
# Milliseconds after which the kernel drops a peer that acknowledges nothing: one that lost its
# power or its network says no goodbye.
_UNACKNOWLEDGED = 30_000


class Ready(Protocol):
    """Senders whose sockets are written to together.

    Attributes:
        written_at: the loop's time of the last such write.
    """

    written_at: float

    def leave(self, sender: DirectSender) -> None:
        """Write what was collected, and no more to this one."""
        ...


class DirectSender(Sender, asyncio.Protocol):
    """A sender on a transport whose response has begun, in chunked coding.

    Arguments:
        transport: the connection, with nothing of another response to come on it.
        stream: is told when there is room again, and when the connection is gone.

    Attributes:
        stream: the same.
        number: the file descriptor of a socket that may be written to itself, or -1.
        ready: the senders that this one is written to together with, or None.
        at: its place among them.
    """

    __slots__ = ("_transport", "at", "number", "ready", "stream")

    def __init__(self, transport: asyncio.Transport, stream: Stream) -> None:
        super().__init__()
        self.owner = self.stream = stream
        self._transport = transport
        self.ready: Ready | None = None
        self.at = 0
        self.number = -1
        transport.set_write_buffer_limits(high=ROOM, low=ROOM // 4)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Not every transport lets its socket be set; then the kernel's own bound holds.
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)
            # Of a connection with TLS only its transport knows what to write. Elsewhere than on
            # POSIX a socket's number is no file's, or another file's.
            plain = transport.get_extra_info("ssl_object") is None
            if plain and os.name == "posix" and not os.get_blocking(sock.fileno()):
                self.number = sock.fileno()
        transport.set_protocol(self)

    @property
    def pending(self) -> int:
        return self._transport.get_write_buffer_size()

    def start(self, _status: int, _headers: Headers, /) -> None:
        raise AssertionError("the response had begun before the connection was handed over")

    @property
    def free(self) -> bool:
        """Whether the socket may be written to: nothing that was given before waits for it.

        It stays so until something is given to the transport, or ``connection_lost`` is called:
        transports close their socket after that, and only then its number can be another's.
        """
        transport = self._transport
        return (
            self.number >= 0
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def write(self, data: bytes) -> None:
        # A transport that has found its peer gone says so in a later tick of the loop.
        if data and not self._transport.is_closing():
            self._take(b"%x\r\n%b\r\n" % (len(data), data))

    def put(self, data: Shared) -> None:
        if not self._transport.is_closing():
            self._take(data.chunk)

    def rest(self, chunk: bytes, sent: int) -> None:
        """The socket took so many bytes of these, or none. The transport finds out why."""
        if not self._transport.is_closing():
            self._take(chunk[sent:] if sent > 0 else chunk)

    def _take(self, data: bytes) -> None:
        if self.ready is not None:
            self.ready.leave(self)
        self._transport.write(data)

    def finish(self) -> None:
        if not self._transport.is_closing():
            self._take(b"0\r\n\r\n")
            self._transport.close()

    def abort(self) -> None:
        if not self.closed:
            self._transport.abort()

    def gone(self) -> None:
        self.abort()

    # What the transport calls

    def pause_writing(self) -> None:
        self.full = True
        self.busy_since = asyncio.get_running_loop().time()

    def resume_writing(self) -> None:
        self.full = False
        self.busy_since = None
        self.stream.idle()

    def data_received(self, data: bytes) -> None:
        """A client has nothing to say on a stream; what it sends is read and dropped."""

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed = True
        self.full = False
        self.busy_since = None
        self.stream.idle()
        self.stream.lost()
        self.stream.release()
