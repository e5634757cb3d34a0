"""What one connection, one client address and all connections together may take of a server."""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater.delivery._unread import UNREAD_BYTES
from headwater.errors import DeclarationError

__all__ = ["ConnectionCounters", "Limits"]

# What a request head of a browser never comes near; nginx takes 32 KB, Apache 100 lines.
_HEAD_BYTES = 64 * 1024
_HEAD_LINES = 100

# Why a connection is refused or closed, and how the log says it.
REASONS = {
    "all": "without a place",
    "address": "above the limit of their address",
    "made_room": "silent ones closed for others",
    "head_time": "without a whole head in time",
    "head_size": "with too large a head",
    "body_time": "without a whole body in time",
    "malformed": "with what is not HTTP",
    "unread": "whose client took no answer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a server's connections. Each process counts for itself.

    Attributes:
        head_bytes: of a request's target and header lines; more is answered 431.
        head_lines: header lines of a request; more are answered 431.
        head_seconds: until a request's head is there, from the connection's beginning or from the
            head's first byte. Later it is answered 408 and the connection is closed.
        body_seconds: until a request's body is there, and a second more for each ``body_rate``
            bytes that came. Later it is answered 408 and the connection is closed.
        body_rate: bytes a second that a long body must have.
        connections: in all; None for as many as there are file descriptors, less the reserve.
        connections_per_address: of one client address, and at most half of all; an IPv6 client
            counts by its /64. Proxies that the server trusts are exempt, and so are Unix sockets.
        reserve: file descriptors that connections leave free, for the database, open files and the
            paths in ``always``; None for an eighth of the process's limit, 32 to 1,024.
        always: paths that are answered also to a connection above the limits.
        unread_seconds: that a client may take none of an answer, until its connection is dropped.
        unread_bytes: of all answers that clients have not taken yet. Above it the caller (who is
            signed in, else the client's network) for whom most bytes wait loses the connection
            whose client took nothing for the longest time.
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
                raise DeclarationError(f"Limits({name}={value!r}): a number above 0 is needed")
        if self.reserve is not None and self.reserve < 0:
            raise DeclarationError(f"Limits(reserve={self.reserve!r}): 0 or more is needed")


@dataclass(slots=True)
class ConnectionCounters:
    """What the connections of a process were closed or refused for, since it began.

    Attributes:
        open: connections now, those of streams among them.
        by_reason: how many, by the reason.
    """

    open: int = 0
    by_reason: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
