"""The address of a stream, checked before anything is sent.

Without these checks an odd address fails deep in the resolver or the socket, with an error that
names neither the address nor what is wrong with it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from headwater.client._transport import httpx
from headwater.errors import UsageError

Params = Mapping[str, Any] | Sequence[tuple[str, Any]]

_MAX_PORT = 65_535
# What RFC 1123 and DNS allow in a label, and the underscore that people use all the same.
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_HOST = 253
_PASSWORD = re.compile(r"(?<=:)[^/@]*(?=@)")


def checked_url(url: str, params: Params | None = None) -> str:
    """Returns ``url`` with ``params`` in its query. Raises UsageError if it is not an address."""
    if not isinstance(url, (str, httpx.URL)):
        raise UsageError(f"{url!r} is not an address: give a str such as http://localhost:8000/")
    text = str(url)
    try:
        text.encode()
        parts = urlsplit(text)
        port = parts.port
        # Also turns a host into ASCII, as IDNA says.
        host = httpx.URL(text).raw_host.decode("ascii")
    except (ValueError, httpx.InvalidURL) as error:
        raise _refused(text, str(error)) from None
    if parts.scheme not in ("http", "https"):
        raise _refused(text, "it does not begin with http:// or https://")
    if not host:
        raise _refused(text, "it has no host")
    if port == 0:
        raise _refused(text, f"a port is a number from 1 to {_MAX_PORT}")
    if not _is_host(host):
        raise _refused(text, f"{host[:80]!r} is not a host's name")
    if params is None:
        return text
    try:
        return str(httpx.URL(text).copy_merge_params(httpx.QueryParams(params)))  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"params={params!r}: they cannot be part of an address: {error}") from None


def shown(url: str) -> str:
    """The address without a password, for messages."""
    return _PASSWORD.sub("***", url, count=1) if "@" in url else url


def with_query(url: str, *, drop: Sequence[str] = (), **add: str) -> str:
    """Returns the address with ``add`` in its query.

    Parameters with the same names, and those in ``drop``, are removed.
    """
    parts = urlsplit(url)
    names = {*drop, *add}
    if parts.query and not names & {name for name, _ in parse_qsl(parts.query)}:
        # Unchanged, because a server may tell two spellings of the same query apart.
        kept = parts.query
    else:
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        kept = urlencode([pair for pair in pairs if pair[0] not in names])
    added = urlencode(add, quote_via=quote, safe="")
    return urlunsplit(parts._replace(query="&".join(filter(None, [kept, added]))))


def stream_url(url: str) -> str:
    """The address of a feed's stream, given the address of either half.

    >>> stream_url("http://localhost:8000/api/logs?level=error")
    'http://localhost:8000/api/logs/stream?level=error'
    """
    return _half(url, "/stream")


def rest_url(url: str) -> str:
    """The address of a feed's REST half, given the address of either half.

    >>> rest_url("http://localhost:8000/api/logs/stream?level=error")
    'http://localhost:8000/api/logs?level=error'
    """
    return _half(url, "")


def _half(url: str, ending: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _refused(url, str(error)) from None
    path = parts.path.rstrip("/").removesuffix("/stream") + ending
    return urlunsplit(parts._replace(path=path, fragment=""))


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        name = host.removesuffix(".")
        return len(name) <= _MAX_HOST and all(map(_LABEL.fullmatch, name.split(".")))
    return True


def _refused(url: str, why: str) -> UsageError:
    return UsageError(f"{shown(url)[:200]!r} is not an http:// or https:// address: {why}")
