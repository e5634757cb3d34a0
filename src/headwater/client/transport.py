"""Time-outs, cookies and errors of httpx, for both clients."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from headwater.errors import MissingExtraError, ResponseError, UsageError

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("client", "httpx") from error

__all__ = ["CONNECT_TIMEOUT", "IDLE_TIMEOUT", "cause_of", "cookie_jar", "httpx", "timeouts"]

# A server sends `: heartbeat` every 30 s. After three missing ones the connection is dead,
# although no error was reported, as when a proxy dropped it.
IDLE_TIMEOUT = 90.0
CONNECT_TIMEOUT = 10.0


def timeouts(idle: float | None) -> httpx.Timeout:
    """Time-outs for one request; ``idle`` is the longest silence of an open stream in seconds."""
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


def cause_of(error: httpx.RequestError | httpx.InvalidURL) -> str:
    """Why a connection was lost, for people. Raises what a reconnect cannot mend."""
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        raise UsageError(f"the request cannot be sent: {error}") from error
    if isinstance(error, httpx.TooManyRedirects):
        raise ResponseError(302, "the address redirects in a circle") from error
    if isinstance(error, httpx.ReadTimeout):
        return "nothing came for too long"
    if isinstance(error, httpx.ConnectTimeout):
        return "the connection could not be made in time"
    return str(error) or type(error).__name__
