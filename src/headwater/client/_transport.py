"""httpx for both clients: time-outs, cookies, encodings, and why a connection was lost."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextvars import copy_context
from typing import Any, TypeVar
from urllib.parse import urlsplit

from headwater.errors import MissingExtraError, UsageError

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("client", "httpx") from error

__all__ = ["httpx"]

# A server sends `: heartbeat` every 30 s. If three do not come, the connection is dead, although
# no error was reported: a proxy may have forgotten it, or somebody pulled a cable.
IDLE_TIMEOUT = 90.0
CONNECT_TIMEOUT = 10.0
# As many as httpx and browsers follow.
MAX_REDIRECTS = 20

# What sending a request raises. The last three come from the resolver and anyio.
CONNECT_FAULTS = (httpx.RequestError, httpx.InvalidURL, OSError, ValueError, ExceptionGroup)

# Another attempt would end the same way. A failed TLS check is an OSError and a ValueError both.
_UNSENDABLE = (
    httpx.InvalidURL,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    ValueError,
)

# The variables that httpx reads when a client is made.
_OF_HTTPX = {
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"),
}

# httpx reads these without further packages.
_ENCODINGS = {"", "identity", "gzip", "deflate"}


class LostError(Exception):
    """A connection that broke or could not be made. Its text says why."""


def timeouts(idle: float | None) -> httpx.Timeout:
    """Time-outs for one request; ``idle`` is the longest silence of an open stream in seconds."""
    if idle is not None and not 0 < idle <= threading.TIMEOUT_MAX:
        raise UsageError(f"idle_timeout={idle}: seconds, more than 0; None waits for ever")
    return httpx.Timeout(CONNECT_TIMEOUT if idle is None else min(idle, CONNECT_TIMEOUT), read=idle)


def cookie_jar(url: str, cookies: Mapping[str, str] | None) -> httpx.Cookies:
    """Cookies for the host of ``url`` alone: a redirect must not carry them to another."""
    jar = httpx.Cookies()
    host = urlsplit(url).hostname or ""
    # The standard library's jar knows a host without a dot under this name.
    domain = host if "." in host else f"{host}.local"
    for name, value in (cookies or {}).items():
        jar.set(name, value, domain=domain)
    return jar


C = TypeVar("C", httpx.Client, httpx.AsyncClient)


def new_client(kind: type[C], **options: Any) -> C:
    """A client of httpx. Raises UsageError for what it cannot use of the environment."""
    try:
        return kind(**options)
    except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
        named = ", ".join(name for name in os.environ if name.upper() in _OF_HTTPX)
        raise UsageError(
            f"the proxy or certificates of the environment ({named}) cannot be used: {error}"
        ) from error


def unknown_encoding(response: httpx.Response, client: httpx.Client | httpx.AsyncClient) -> str:
    """The Content-Encoding of a response if httpx cannot decode it here; else empty."""
    # httpx asks for the encodings that it can decode with the installed packages.
    asked = client.headers.get("accept-encoding", "").lower().split(",")
    known = _ENCODINGS | {name.partition(";")[0].strip() for name in asked}
    used = str(response.headers.get("content-encoding", "")).lower().split(",")
    return next((name for name in map(str.strip, used) if name not in known), "")


def cause_of(error: BaseException) -> str:
    """Why a connection was lost. Raises UsageError if the request can never be sent."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, httpx.ReadTimeout):
        return "nothing came for too long"
    if isinstance(error, httpx.ConnectTimeout):
        return "the connection could not be made in time"
    if isinstance(error, _UNSENDABLE) and not isinstance(error, OSError):
        raise UsageError(f"the request cannot be sent: {error}") from error
    return _of_system(error) or str(error) or type(error).__name__


def _of_system(error: BaseException | None) -> str | None:
    """What the operating system said, which httpx and anyio put behind words of their own."""
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
            # asyncio has a text of its own; the resolver's numbers are its own, below 0.
            return os.strerror(error.errno) if error.errno > 0 else error.strerror
        error = error.__cause__ or error.__context__
    return None


class Wire:
    """One blocking request, which another thread can end.

    Nothing ends a wait for a name server, or for a host that takes no connection. So a thread of
    its own waits for the response, and is left alone after a cut. A thread that reads the body is
    woken when its socket is shut down. Sockets that other requests share (HTTP/2) and transports
    without one are left alone; the body then ends with its next bytes or its time-out.
    """

    def __init__(self) -> None:
        self.was_cut = False
        self._stream: Any = None
        self._answer: Future[httpx.Response] = Future()
        self._lock = threading.Lock()

    def response(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Call ``send`` and return its response. Raises what it does, and LostError after a cut."""
        with self._lock:
            answer = self._answer = Future()
            if self.was_cut:
                raise LostError("the connection was cut")
        work = (_answer, send, answer)
        threading.Thread(target=copy_context().run, args=work, daemon=True).start()
        try:
            return answer.result()
        except CancelledError:
            raise LostError("the connection was cut") from None
        except BaseException:
            self.cut()  # an interrupt of this thread does not reach the other one
            raise

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
            self._answer.cancel()
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


def _answer(send: Callable[[], httpx.Response], answer: Future[httpx.Response]) -> None:
    """Give the response to the thread that waits for it, or close it if none does any more."""
    try:
        response = send()
    except BaseException as error:
        with contextlib.suppress(InvalidStateError):
            answer.set_exception(error)
        return
    try:
        answer.set_result(response)
    except InvalidStateError:
        response.close()
