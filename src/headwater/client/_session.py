"""One followed stream across its connections, without I/O: its requests, and its next values.

``_connections`` moves the bytes and waits. Every decision is made here.
"""

from __future__ import annotations

import html
import inspect
import json as json_module
import random as random_module
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import TIMEOUT_MAX
from typing import Any, Generic, TypeVar, Unpack

from headwater.client._address import checked_url, shown, with_query
from headwater.client._headers import bearer, is_field_value, merged, pairs
from headwater.client._options import (
    FollowOptions,
    StreamOptions,
    body_of,
    check_options,
    check_position,
    method_of,
)
from headwater.client._positions import PositionFile
from headwater.client._transport import IDLE_TIMEOUT, httpx, timeouts
from headwater.errors import ResponseError, SourceUnavailableError, UsageError
from headwater.protocol import MAX_EVENT_BYTES, Decoder, Reconnect, Stop, Wait

V = TypeVar("V")

# A problem body is a few hundred bytes; a proxy's error page is cut.
MAX_ERROR_BODY = 65_536
# A proxy's error page.
_TITLE = re.compile(r"<title[^>]*>([^<]*)</title>", re.IGNORECASE)
_UNAUTHORIZED = 401
_RETRY = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """The next request.

    Attributes:
        polls: whether the response is a page, for ``FeedSession.polled``, and not a stream.
        first_byte_within: seconds within which the body must begin. None: no limit.
    """

    method: str
    url: str
    headers: dict[bytes, bytes]
    content: bytes | None = None
    polls: bool = False
    first_byte_within: float | None = None


class Session(Generic[V]):
    """The state of one followed stream. Raises UsageError for options that cannot work.

    Messages wait here between ``feed`` and ``take``. ``feed`` is called when none waits.

    Attributes:
        url: the stream's address.
        auth: for httpx. Without ``token`` and ``auth`` its client signs in as it likes.
        token: the caller's key, or the function that returns it.
        cookies: as in the options.
        idle_timeout: as in the options.
        timeout: the time-outs of one request, for httpx.
        on_position: as in the options.
        on_open: as in the options.
        max_event_bytes: as in the options.
        last_event_id: the position of the last message that was taken; empty for none.
    """

    _options: type = StreamOptions

    def __init__(self, url: str, **options: Unpack[FollowOptions]) -> None:
        check_options(options, self._options)
        self.url = checked_url(url, options.get("params"))
        self.token = options.get("token")
        self.auth: Any = options.get("auth")
        if self.token is not None and self.auth is not None:
            raise UsageError("give token= or auth=, not both")
        if self.token is None and self.auth is None:
            self.auth = httpx.USE_CLIENT_DEFAULT
        if isinstance(self.token, str):
            bearer(self.token)
        self._content, self._body_headers = body_of(options.get("json"), options.get("content"))
        self._method = method_of(options.get("method"), self._content)
        reconnect = options.get("reconnect")
        self._reconnects = self._method == "GET" if reconnect is None else reconnect
        retry = options.get("retry", _RETRY)
        if not 0 <= retry <= TIMEOUT_MAX:
            raise UsageError(f"retry={retry}: seconds, 0 or more")
        self._reconnect = Reconnect(
            random=options.get("random", random_module.random),
            retry=retry,
            give_up_after=options.get("give_up_after"),
        )
        self.cookies = options.get("cookies")
        if not all(isinstance(text, str) for pair in (self.cookies or {}).items() for text in pair):
            raise UsageError("cookies: a mapping of str to str is needed")
        self.idle_timeout = options.get("idle_timeout", IDLE_TIMEOUT)
        self.timeout = timeouts(self.idle_timeout)
        self.max_event_bytes = options.get("max_event_bytes", MAX_EVENT_BYTES)
        self.on_position, self.on_open = options.get("on_position"), options.get("on_open")
        self._on_wait = options.get("on_wait")
        if inspect.iscoroutinefunction(self._on_wait):
            raise UsageError(
                "on_wait= is a coroutine function, and nobody awaits it: give a plain one"
            )
        given = pairs(options.get("headers") or ())
        merged(given)
        # As a header it would pin every connection to one position.
        among_headers = [value for name, value in given if name.lower() == "last-event-id"]
        self._headers = [pair for pair in given if pair[0].lower() != "last-event-id"]
        path = options.get("position_file")
        self._file = None if path is None else PositionFile(path)
        self._loaded = ""
        position = options.get("last_event_id")
        if position is None:
            position = among_headers[-1] if among_headers else ""
            if self._file is not None and not position:
                position = self._loaded = self._file.load()
        check_position(position)
        self._begin(position)
        self._queue: deque[tuple[Any, str]] = deque()
        self._renewed = False
        self._answered: Mapping[str, str] = {}

    def _begin(self, position: str) -> None:
        self.last_event_id = self._end = position
        # A position that was given is still to be written to the file.
        self._settled = position if self._file is None else self._loaded
        self._reconnect.last_event_id = position
        self._decoder = self._new_decoder()

    def request(self, token: str | None = None, *, now: float = 0.0) -> Request:
        """The request of the next connection.

        ``now`` is a time of the monotonic clock, by which a feed's session decides.
        """
        position = self._reconnect.last_event_id.encode()
        url, own = self.url, self._own_headers(token)
        if position and is_field_value(position):
            own.append(("Last-Event-ID", position.decode()))
        elif position:
            # No header can carry some characters of an id, so servers read the query too.
            url = with_query(url, lastEventId=position.decode())
        return Request(self._method, url, merged(own, self._headers), self._content)

    def _own_headers(self, token: str | None) -> list[tuple[str, str]]:
        own = [
            ("Accept", "text/event-stream"),
            # "Set request's cache mode to no-store".
            ("Cache-Control", "no-store"),
            # Compressed bytes may wait in the other side's buffer for more to come.
            ("Accept-Encoding", "identity"),
            *self._body_headers,
        ]
        if token is not None:
            own.append(("Authorization", bearer(token)))
        return own

    def opened(self, status: int, headers: Mapping[str, str]) -> bool:
        """Whether the response is a stream. If it is not, call ``refused``."""
        if not self._reconnect.accepts(status, headers.get("content-type", "")):
            return False
        self._decoder = self._new_decoder()
        self._answered = headers
        self._renewed = False
        return True

    def refused(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float
    ) -> Wait | Stop:
        """What to do after a response that is not a stream. ``now`` is Unix seconds."""
        detail = problem_detail(body)
        if status == _UNAUTHORIZED and callable(self.token) and not self._renewed:
            # The token may have expired, so its function is called once more.
            self._renewed = True
            return self._decided(Wait(0.0, f"HTTP 401: {detail}; asking for another token"))
        decision = self._reconnect.refused(
            status,
            content_type=headers.get("content-type", ""),
            detail=detail,
            retry_after=headers.get("retry-after"),
            now=now,
        )
        if isinstance(decision, Wait) and not self._reconnects:
            return Stop(ResponseError(status, detail or "no event stream"))
        return self._decided(decision)

    def ended(self, *, now: float) -> Wait | Stop:
        """What to do after a stream whose body has ended. ``now`` is Unix seconds."""
        if not self._reconnects:
            return Stop(None)
        cause = "the server ended the stream"
        if self._decoder.comment and self._answered.get("retry-after"):
            cause += f": {self._decoder.comment}"
        return self._lost(cause, now=now, retry_after=self._answered.get("retry-after"))

    def lost(self, cause: str) -> Wait | Stop:
        """What to do after a connection that broke, or could not be made."""
        if not self._reconnects:
            return Stop(SourceUnavailableError(shown(self.url), cause))
        return self._lost(cause)

    def late(self) -> Wait | Stop:
        """What to do after a response that did not begin in time."""
        return self.lost("the response did not begin in time")

    def feed(self, chunk: bytes) -> None:
        """Decode the next bytes. ``take`` returns their messages. Then call ``check``."""
        decoder = self._decoder
        messages = decoder.feed(chunk)
        if decoder.retry is not None:
            self._reconnect.take_retry(decoder.retry)
        # A server that fails at once says so in an `error` event each time: that is no progress,
        # and must not reset the back-off.
        moved = decoder.last_event_id != self._reconnect.last_event_id
        if moved or any(message.event != "error" for message in messages):
            self._reconnect.received()
        self._reconnect.last_event_id = decoder.last_event_id
        self._queue.extend((message, message.last_event_id) for message in messages)
        # Blocks without data move it too.
        self._end = decoder.last_event_id

    def check(self) -> None:
        """Raise EventTooLargeError if the next event is too large.

        ``feed`` would raise it with the next bytes, but the server may send nothing more.
        """
        self._decoder.feed(b"")

    @property
    def waiting(self) -> bool:
        """Whether there is something to ``take``."""
        return bool(self._queue)

    def take(self) -> V | None:
        """The next value; None when more bytes are needed.

        ``last_event_id`` moves with the values that are taken, not with the bytes that came. So a
        program that stores it and stops half-way gets the rest later.
        """
        while self._queue:
            found, position = self._queue.popleft()
            try:
                with self.named_errors():
                    value = self.read(found)
            except ResponseError as error:
                if error.status != _UNAUTHORIZED or not callable(self.token):
                    raise
                value = None  # The stream ends now. The next connection brings another token.
            self.last_event_id = position
            if value is not None:
                return value
        self.last_event_id = self._end
        return None

    def read(self, found: Any) -> V | None:
        """The value for the caller of what came; None if there is none."""
        value: V = found
        return value

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Errors of an answer get the address of the stream, which a sentence needs."""
        try:
            yield
        except ResponseError as error:
            error.url = shown(self.url)
            raise

    def handled(self) -> str | None:
        """Note that all values that were taken are handled. Writes the position file.

        Returns the position if it is a new one, else None. Raises UsageError.
        """
        position = self.last_event_id
        if position == self._settled or not position:
            return None
        self._settled = position
        if self._file is not None:
            self._file.save(position)
        return position

    def _new_decoder(self) -> Decoder:
        return Decoder(
            last_event_id=self._reconnect.last_event_id, max_event_bytes=self.max_event_bytes
        )

    def _lost(self, cause: str, *, now: float = 0.0, retry_after: str | None = None) -> Wait | Stop:
        return self._decided(
            self._reconnect.lost(shown(self.url), cause, retry_after=retry_after, now=now)
        )

    def _decided(self, decision: Wait | Stop) -> Wait | Stop:
        if isinstance(decision, Wait) and self._on_wait is not None:
            self._on_wait(decision)
        return decision


def problem_detail(body: bytes) -> str:
    """The reason in an error's body: the detail of an RFC 9457 problem, a title, or a line."""
    text = body.decode("utf-8", "replace").strip()
    try:
        problem = json_module.loads(text)
    except (ValueError, RecursionError):
        problem = None
    if isinstance(problem, dict):
        for name in ("detail", "title"):
            if isinstance(problem.get(name), str):
                return str(problem[name])
    page = _TITLE.search(text)
    line = text.partition("\n")[0] if page is None else html.unescape(page[1])
    return " ".join(line.split())[:200]
