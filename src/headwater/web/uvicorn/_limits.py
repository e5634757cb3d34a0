"""What one connection, one client address and all connections together may take of a server."""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater.delivery._unread import UNREAD_BYTES
from headwater.errors import DeclarationError

# Far more than browsers send. nginx takes 32 KB, Apache 100 lines.
_HEAD_BYTES = 64 * 1024
_HEAD_LINES = 100

# Why a connection is refused or closed, and how the log says it.
REASONS = {
    "all": "above the limit of all connections",
    "address": "above the limit of their address",
    "made_room": "closed to make room, as they sent nothing",
    "head_time": "whose request's head came too slowly",
    "head_size": "whose request's head was too large",
    "body_time": "whose request's body came too slowly",
    "malformed": "that sent no valid HTTP request",
    "unread": "whose client did not read its answer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a server's connections. Each process counts for itself.

    Attributes:
        head_bytes: of a request's target and header lines; more is answered 431.
        head_lines: header lines of a request; more are answered 431.
        head_seconds: in which a request's head must come, from the connection's beginning or from
            the head's first byte. Otherwise it is answered 408 and the connection is closed.
        body_seconds: in which a request's body must come, and a second more for each ``body_rate``
            bytes that came. Otherwise it is answered 408 and the connection is closed.
        body_rate: bytes a second that a client must send of a long body.
        connections: in all; None for as many as there are file descriptors, less the reserve.
        connections_per_address: of one client address, and at most half of all; an IPv6 client
            counts by its /64. Proxies that the server trusts are exempt, and so are Unix sockets.
        reserve: file descriptors that connections leave free, for the database, open files and the
            paths in ``always``; None for an eighth of the process's limit, 32 to 1,024.
        always: paths that are answered also to a connection above the limits.
        unread_seconds: for which a client may read nothing of an answer before its connection is
            dropped.
        unread_bytes: of all answers that clients have not read yet. Above it the caller (who is
            signed in, else the client's network) for whom most bytes wait loses the connection
            whose client read nothing for the longest time.
    """

    head_bytes: int = _HEAD_BYTES
    head_lines: int = _HEAD_LINES
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    body_rate: int = 1024
    connections: int | None = None
    connections_per_address: int = 500
    reserve: int | None = None
    always: tuple[str, ...] = ("/healthz", "/readyz", "/metrics")
    unread_seconds: float = 30.0
    unread_bytes: int = UNREAD_BYTES

    def __post_init__(self) -> None:
        for name in (
            *("head_bytes", "head_lines", "head_seconds", "body_seconds", "body_rate"),
            *("connections", "connections_per_address", "unread_seconds", "unread_bytes"),
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise DeclarationError(f"Limits({name}={value!r}): write a number above 0")
        if self.reserve is not None and self.reserve < 0:
            raise DeclarationError(f"Limits(reserve={self.reserve!r}): write 0 or more")


@dataclass(slots=True)
class ConnectionCounters:
    """How many connections a process has, and why it closed or refused others since it began.

    Attributes:
        open: connections now, also those of streams.
        by_reason: how many were closed or refused, by the reason.
    """

    open: int = 0
    by_reason: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
