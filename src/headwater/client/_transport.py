"""What both shells need of httpx."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from headwater.errors import MissingExtraError, UsageError

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("client", "httpx") from error

__all__ = [
    "CONNECT_FAULTS",
    "IDLE_TIMEOUT",
    "MAX_REDIRECTS",
    "LostError",
    "Wire",
    "cause_of",
    "cookie_jar",
    "httpx",
    "least",
    "timeouts",
    "unknown_encoding",
]

# A server sends `: heartbeat` every 30 s. After three that did not come, the connection is dead,
# although nobody said so: a proxy or a cable forgot it.
IDLE_TIMEOUT = 90.0
CONNECT_TIMEOUT = 10.0
# As many as httpx and browsers follow.
MAX_REDIRECTS = 20

# What sending a request raises. The resolver and anyio raise the others for odd hosts.
CONNECT_FAULTS = (httpx.RequestError, httpx.InvalidURL, OSError, ValueError, ExceptionGroup)

# Another attempt would end the same way. A failed TLS check is an OSError and a ValueError both.
_UNSENDABLE = (
    httpx.InvalidURL,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    ValueError,
)

# httpx reads these without further packages.
_ENCODINGS = {"", "identity", "gzip", "deflate"}


class LostError(Exception):
    """A connection that broke or could not be made. Says why; a shell decides what to do."""


def timeouts(idle: float | None) -> httpx.Timeout:
    """Time-outs for one request; ``idle`` is the longest silence of an open stream in seconds."""
    if idle is not None and not idle > 0:
        raise UsageError(f"idle_timeout={idle}: seconds, more than 0; None waits for ever")
    return httpx.Timeout(CONNECT_TIMEOUT, read=idle)


def cookie_jar(url: str, cookies: Mapping[str, str] | None) -> httpx.Cookies:
    """Cookies for the host of ``url`` alone: a redirect must not carry them to another."""
    jar = httpx.Cookies()
    host = urlsplit(url).hostname or ""
    # The standard library's jar knows a host without a dot under this name.
    domain = host if "." in host else f"{host}.local"
    for name, value in (cookies or {}).items():
        jar.set(name, value, domain=domain)
    return jar


def least(*seconds: float | None) -> float | None:
    """The shortest of these times; None is for ever."""
    return min((each for each in seconds if each is not None), default=None)


def unknown_encoding(response: httpx.Response, client: httpx.Client | httpx.AsyncClient) -> str:
    """The Content-Encoding of an answer, if it is one that nobody here can read; else empty."""
    # What httpx can read with the packages that are installed is what it asks for.
    asked = client.headers.get("accept-encoding", "").lower().split(",")
    known = _ENCODINGS | {name.partition(";")[0].strip() for name in asked}
    used = str(response.headers.get("content-encoding", "")).lower().split(",")
    for name in map(str.strip, used):
        if name not in known:
            return name
    return ""


def cause_of(error: BaseException) -> str:
    """Why a connection was lost, for people. Raises UsageError for what cannot be sent at all."""
    for leaf in _leaves(error):
        if isinstance(leaf, httpx.ReadTimeout):
            return "nothing came for too long"
        if isinstance(leaf, httpx.ConnectTimeout):
            return "the connection could not be made in time"
        if isinstance(leaf, _UNSENDABLE) and not isinstance(leaf, OSError):
            raise UsageError(f"the request cannot be sent: {leaf}") from error
        return str(leaf) or type(leaf).__name__
    return type(error).__name__


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


class Wire:
    """The socket of one blocking request, so that another thread can end the request.

    A thread that waits in ``recv`` is only woken when the socket is shut down. Sockets that other
    requests share (HTTP/2) and transports without one are left alone; the request then ends with
    its next bytes or its time-out.
    """

    def __init__(self) -> None:
        self.was_cut = False
        self._stream: Any = None
        self._lock = threading.Lock()

    def trace(self, name: str, info: Mapping[str, Any]) -> None:
        """httpx's "trace" extension: hands over the connection once it is made."""
        if name.endswith(("connect_tcp.complete", "connect_unix_socket.complete", "tls.complete")):
            self.found(info.get("return_value"))

    def found(self, stream: Any) -> None:
        """Take the "network_stream" of an answer."""
        with self._lock:
            self._stream = stream or self._stream
            if self.was_cut:
                self._shut_down()

    def cut(self) -> None:
        """End the request, from any thread."""
        with self._lock:
            self.was_cut = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self._stream is None:
            return
        encrypted = self._stream.get_extra_info("ssl_object")
        if encrypted is not None and encrypted.selected_alpn_protocol() == "h2":
            return
        found = self._stream.get_extra_info("socket")
        if isinstance(found, socket.socket):
            with contextlib.suppress(OSError):
                # Not the method of a TLS socket, which would take its state from its reader.
                socket.socket.shutdown(found, socket.SHUT_RDWR)
