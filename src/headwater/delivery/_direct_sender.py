"""The direct sender: bytes straight to the connection's transport, without task or ASGI.

Once a stream is live it needs no task, no request, no middleware and no HTTP parser. The server's
protocol hands the connection over; from then on this object is the connection's protocol. It
writes the same bytes that the server would: HTTP/1.1 chunks.

Bytes that many streams share are written to the sockets themselves, many in one call, as long as
the transport has nothing buffered. Everything else, and what a socket does not accept, goes
through the transport, which keeps the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Protocol

from headwater.delivery._sender import ROOM, Headers, Sender
from headwater.delivery._stream import Stream
from headwater.delivery._taken import acknowledged, taken

# One chunk of HTTP/1.1's chunked coding (RFC 9112, 7.1), from the length and the bytes.
CHUNK = b"%x\r\n%b\r\n"
# Size of the socket's send buffer; Linux doubles it for its own bookkeeping. Without it a client
# on the loopback interface that stops reading takes megabytes before that is noticed.
_KERNEL_BUFFER = 64 * 1024
# Milliseconds after which the kernel drops a peer that acknowledges nothing: one that lost its
# power or its network closes no connection.
_UNACKNOWLEDGED = 30_000


class SocketGroup(Protocol):
    """Senders whose sockets are written to together.

    Attributes:
        written_at: the loop's time of the last such write.
    """

    written_at: float

    def leave(self, sender: DirectSender) -> None:
        """Write what was collected for this sender, and take it out of the group."""
        ...


class DirectSender(Sender, asyncio.Protocol):
    """A sender on a transport whose response has begun, in chunked coding.

    Arguments:
        transport: the connection, with nothing of another response to come on it.
        stream: is notified when there is room again, and when the connection is lost.

    Attributes:
        number: the file descriptor of a socket that may be written to directly, or -1.
        group: the senders that this one is written to together with, or None.
        at: its index in the group.
    """

    __slots__ = ("_transport", "at", "group", "number")

    stream: Stream

    def __init__(self, transport: asyncio.Transport, stream: Stream) -> None:
        super().__init__()
        self.stream = stream
        self._transport = transport
        self.group: SocketGroup | None = None
        self.at = 0
        self.number = -1
        transport.set_write_buffer_limits(high=ROOM, low=ROOM // 4)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Some transports do not let their socket be set up; then the kernel's bound holds.
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)
            # With TLS only the transport knows what to write. On other systems than POSIX a
            # socket's number is not a file descriptor.
            plain = transport.get_extra_info("ssl_object") is None
            if plain and os.name == "posix" and not os.get_blocking(sock.fileno()):
                self.number = sock.fileno()
        transport.set_protocol(self)

    @property
    def pending(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def sent(self) -> int | None:
        # Many streams share a write, so nobody counts for each. The kernel does it anyway.
        return acknowledged(self._transport)

    @property
    def taken(self) -> int | None:
        return taken(self._transport)

    def start(self, _status: int, _headers: Headers, /) -> None:
        raise AssertionError("the response had begun before the connection was handed over")

    @property
    def free(self) -> bool:
        """Whether the socket may be written to directly: the transport has nothing buffered.

        It stays so until something is written to the transport, or ``connection_lost`` is called:
        transports close their socket after that, and only then another one can get its number.
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
            self._write(CHUNK % (len(data), data))

    def write_rest(self, chunk: bytes, sent: int) -> None:
        """Write what the socket did not accept of a chunk: all of it, if ``sent`` is negative.

        A negative number stands for an error, which the transport meets in its turn.
        """
        if not self._transport.is_closing():
            self._write(chunk[sent:] if sent > 0 else chunk)

    def _write(self, data: bytes) -> None:
        if self.group is not None:
            self.group.leave(self)
        self._transport.write(data)

    def finish(self) -> None:
        if not self._transport.is_closing():
            self._write(b"0\r\n\r\n")
            self._transport.close()

    def abort(self) -> None:
        if not self.closed:
            self._transport.abort()

    def gone(self) -> None:
        self.abort()

    # The transport calls these.

    def pause_writing(self) -> None:
        self.full = True
        self.stream.busy()

    def resume_writing(self) -> None:
        self.full = False
        self.stream.idle()

    # uvloop refers to it for each connection, and a bound method would be an object for each.
    @staticmethod
    def data_received(data: bytes) -> None:
        """Drop what the client sends: a stream has no use for it."""

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed = True
        self.full = False
        self.stream.idle()
        self.stream.lost()
        self.stream.release()
