"""From bytes to requests: one connection's parser, with bounds for heads and bodies."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from headwater.errors import MissingExtraError

try:
    import httptools
except ImportError as error:
    raise MissingExtraError("backend", "httptools") from error

from headwater.web.asgi import TRANSPORT
from headwater.web.uvicorn._exchange import Connection, Exchange
from headwater.web.uvicorn._limits import Limits
from headwater.web.uvicorn._offer import Offer
from headwater.web.uvicorn._refusals import MALFORMED, Refused, too_large
from headwater.web.uvicorn._setup import Setup

# The parser cannot stop where a request ends, so heads are given to it in pieces: few requests fit
# into one, and no more are parsed before the first is answered.
_PIECE = 1024
_BODY_PIECE = 64 * 1024
# Bytes of a chunked body that are not its data (sizes, extensions, trailers), beside 8 for each
# byte of it: a client may send chunks of one byte.
_FRAMING, _FRAMING_FACTOR = 64 * 1024, 8
# RFC 9110, 7.2, and RFC 3986, 3.2.2: a name or an address, and a port. It may be empty.
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?", re.ASCII)


class _RefusedError(Exception):
    """Ends the parsing, so that nothing after a refused head is taken for a request."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused


class RequestReader:
    """Parses the requests of one connection.

    Arguments:
        protocol: gets each request as soon as its head is whole.
        ends: what the connection adds to an ASGI scope: its addresses and the scheme.

    Attributes:
        exchange: the request whose body is read, or the latest.
        in_body: that body is not whole yet.
        begun: a part of a head has come.
        received: the number of bytes of the body.
        dropped: the number of those that came after the answer.
        websocket: the connection becomes a WebSocket.
    """

    __slots__ = (
        *("_ends", "_fed", "_headers", "_left", "_limits", "_lines", "_parser", "_protocol"),
        *("_scope", "_setup", "_size", "_url"),
        *("dropped", "exchange", "in_body", "received", "websocket"),
    )

    def __init__(self, protocol: Connection, setup: Setup, limits: Limits, ends: Any) -> None:
        self._protocol = protocol
        self._setup = setup
        self._limits = limits
        self._ends: dict[str, Any] = ends
        self._parser: httptools.HttpRequestParser | None = self._new_parser()
        self.exchange: Exchange | None = None
        self._scope: dict[str, Any] = {}
        self._headers: list[tuple[bytes, bytes]] = []
        self._url = b""
        self._left: int | None = None
        self._fed = self._lines = self._size = 0
        self.received = self.dropped = 0
        self.in_body = self.websocket = False

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What a client sends after a request with "Connection: close" is ignored.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    @property
    def begun(self) -> bool:
        return self._fed > 0 and not self.in_body

    @property
    def step(self) -> int:
        """How many bytes to feed at once."""
        if self.in_body and self._left is not None:
            return min(max(self._left, _PIECE), _BODY_PIECE)
        return _PIECE

    def feed(self, piece: memoryview) -> Refused | None:
        """Parse some bytes. Returns what is wrong if they cannot be a request."""
        parser = self._parser
        if parser is None:
            return None
        self._fed += len(piece)
        try:
            parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            if self.websocket:
                return None
            # Anything else is ignored, as RFC 9110, 7.8 allows. The parser takes what follows for
            # the other protocol, but it is the request's body, or the next request.
            head, self._parser = self.request_again(without=b"upgrade"), self._new_parser()
            return self.feed(memoryview(head + piece[upgrade.args[0] :]))
        except httptools.HttpParserError as error:
            why = error.__context__
            return why.refused if isinstance(why, _RefusedError) else MALFORMED
        if self._head_is_too_large():
            return too_large(self._limits)
        if self.in_body and self._fed > _FRAMING + _FRAMING_FACTOR * self.received:
            return MALFORMED
        return None

    def close(self) -> None:
        """Read no more. The parser refers to this object, so both would wait for the collector."""
        self._parser = self.exchange = None
        self._scope = {}

    def request_again(self, *, without: bytes = b"") -> bytes:
        """The head of the request as it came, for another parser, without one of its headers."""
        parser = self._parser
        assert parser is not None
        version = parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (parser.get_method(), self._url, version)]
        lines += [b"%b: %b\r\n" % pair for pair in self._headers if pair[0] != without]
        return b"".join((*lines, b"\r\n"))

    def _head_is_too_large(self) -> bool:
        most = self._limits.head_bytes
        # Bytes of a line that is not whole yet are counted as they come.
        return (
            self._lines > self._limits.head_lines
            or self._size > most
            or (not self.in_body and self._fed > most + _PIECE)
        )

    # The parser calls these.

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self.exchange = None
        self._lines = self._size = self.received = self.dropped = 0
        # At least one byte of a head is here, and is not counted otherwise.
        self._fed = 1
        self._left = None
        self.in_body = self.websocket = False

    def on_url(self, url: bytes) -> None:
        self._size += len(url)
        if self._size <= self._limits.head_bytes:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines += 1
        # ": " and the line's end count too.
        self._size += len(name) + len(value) + 4
        # What comes after a body in chunks is no part of the request's head.
        if not self.in_body and self._lines <= self._limits.head_lines:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._head_is_too_large():
            raise _RefusedError(too_large(self._limits))
        parser, setup = self._parser, self._setup
        assert parser is not None
        self.in_body = True
        self._fed = 0
        url = httptools.parse_url(self._url)
        # RFC 9112, 3.2.2: an address of a whole URI may have no path.
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")
        version = parser.get_http_version()
        expects, upgrade = False, b""
        hosts: list[bytes] = []
        codings: list[bytes] = []
        for name, value in self._headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                self._left = int(value)
            elif name == b"transfer-encoding":
                codings += value.lower().split(b",")
            elif name == b"expect":
                # RFC 9110, 10.1.1: one of HTTP/1.0 is ignored.
                expects = version != "1.0" and value.lower() == b"100-continue"
            elif name == b"upgrade":
                upgrade = value.lower()
        if url.host is not None:
            # RFC 9112, 3.2.2: the host of a whole URI counts, and not the header.
            authority = re.split(rb"[/?#]", self._url[len(url.schema) + len("://") :], maxsplit=1)[
                0
            ]
            hosts = [authority] * len(hosts)
            self._headers = [(n, authority if n == b"host" else v) for n, v in self._headers]
        refused = _refused(version, hosts, codings)
        if refused is not None:
            raise _RefusedError(refused)
        method = parser.get_method()
        if method == b"CONNECT":
            raise _RefusedError(MALFORMED)
        if parser.should_upgrade():
            asked = method == b"GET" and upgrade == b"websocket"
            self.websocket = asked and setup.websocket is not None
            if not self.websocket:
                self.in_body = False
                return
        offer = Offer(self._protocol)
        self._scope = scope = {
            "type": "http",
            "asgi": setup.asgi,
            "http_version": version,
            **self._ends,
            "method": method.decode("ascii"),
            "root_path": setup.root_path,
            "path": setup.root_path + (unquote(path) if "%" in path else path),
            "raw_path": setup.root_path.encode("ascii") + raw_path,
            "query_string": url.query or b"",
            "headers": self._headers,
            "state": setup.state.copy(),
            "extensions": {TRANSPORT: offer},
        }
        if self.websocket:
            return
        keep_alive = version != "1.0" and parser.should_keep_alive()
        self.exchange = offer.exchange = Exchange(self._protocol, scope, expects, keep_alive)
        self._protocol.request(self.exchange)

    def on_body(self, data: bytes) -> None:
        exchange = self.exchange
        self.received += len(data)
        if self._left is not None:
            self._left -= len(data)
        if exchange is None or exchange.complete or exchange.disconnected:
            self.dropped += len(data)
        else:
            exchange.add_body(data)

    def on_message_complete(self) -> None:
        self.in_body = False
        self._fed = 0
        if self.exchange is not None:
            self.exchange.end_body()


def _refused(version: str, hosts: list[bytes], codings: list[bytes]) -> Refused | None:
    """What is wrong with a head that the parser accepts."""
    if version not in ("1.0", "1.1"):
        return Refused(505, "malformed", f"HTTP/{version}: send HTTP/1.1.")
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        # RFC 9112, 3.2.
        return Refused(400, "malformed", f"{len(hosts) or 'no'} Host headers: send one.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        shown = hosts[0].decode("latin-1")[:100]
        return Refused(400, "malformed", f"Host: {shown!a}: send a name or an address, and a port.")
    if codings and [each.strip() for each in codings] != [b"chunked"]:
        # RFC 9112, 6.1 and 6.3: without chunks at the end nobody knows where the body ends.
        status = 501 if codings[-1].strip() == b"chunked" else 400
        return Refused(status, "malformed", "Transfer-Encoding: send `chunked` alone.")
    return None
