"""The direct sender: bytes straight to the connection's transport, without task or ASGI.

Once a stream is live it needs no task, no request, no middleware and no HTTP parser. The server's
protocol hands the connection over; from then on this object is the connection's protocol. It
writes the same bytes that the server would: HTTP/1.1 chunks.

What many streams share goes to the socket itself where the transport holds nothing back: that
saves a tenth of what a delivery costs. Everything else, and what the socket does not take at once,
goes through the transport, which keeps the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from headwater.delivery.sender import ROOM, Headers, Sender, Shared
from headwater.delivery.stream import Stream

__all__ = ["DirectSender"]

# What the kernel may hold of one stream; Linux doubles it for its own bookkeeping. A client on
# the loopback interface that stops reading would else take megabytes before it is noticed.
_KERNEL = 64 * 1024
# Milliseconds after which the kernel drops a peer that acknowledges nothing: one that lost its
# power or its network says no goodbye.
_UNACKNOWLEDGED = 30_000


class DirectSender(Sender, asyncio.Protocol):
    """A sender on a transport whose response has begun, in chunked coding.

    Arguments:
        transport: the connection, with nothing of another response to come on it.
        stream: is told when there is room again, and when the connection is gone.
    """

    __slots__ = ("_held", "_socket", "_stream", "_transport", "_write")

    def __init__(self, transport: asyncio.Transport, stream: Stream) -> None:
        super().__init__()
        self.owner = stream
        self._stream = stream
        self._transport = transport
        self._write = transport.write
        # The transport may hold bytes.
        self._held = True
        self._socket = -1
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
                self._socket = sock.fileno()
        transport.set_protocol(self)

    @property
    def pending(self) -> int:
        return self._transport.get_write_buffer_size()

    def start(self, _status: int, _headers: Headers, /) -> None:
        raise AssertionError("the response had begun before the connection was handed over")

    def write(self, data: bytes) -> None:
        # A transport that has found its peer gone says so in a later tick of the loop.
        if data and not self._transport.is_closing():
            self._held = True
            self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def put(self, data: Shared) -> None:
        # A transport that is closing may have closed the socket, whose number may be another's by
        # now; all this is in one tick of the loop, in which nothing else can close it.
        transport = self._transport
        if transport.is_closing():
            return
        chunk = data.chunk
        if self._held:
            if self._socket < 0 or transport.get_write_buffer_size():
                self._write(chunk)
                return
            self._held = False
        try:
            sent = os.write(self._socket, chunk)
        except OSError:
            # Full, or the peer is gone: the transport finds out which.
            sent = 0
        if sent != len(chunk):
            self._held = True
            self._write(chunk[sent:])

    def finish(self) -> None:
        if not self._transport.is_closing():
            self._held = True
            self._write(b"0\r\n\r\n")
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
        self._stream.idle()

    def data_received(self, data: bytes) -> None:
        """A client has nothing to say on a stream; what it sends is read and dropped."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.closed = True
        self.full = False
        self.busy_since = None
        self._stream.idle()
        self._stream.lost()
        self._stream.release()
