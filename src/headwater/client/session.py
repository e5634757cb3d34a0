"""One followed stream across its connections, without I/O: what to ask, and what answers mean.

The two shells (``aio`` and ``sync``) only move bytes and wait; every decision is made here.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import quote, urlsplit, urlunsplit

from headwater.errors import UsageError
from headwater.protocol import MAX_EVENT_BYTES, Decoder, Message, Reconnect, Stop, Wait

__all__ = ["MAX_ERROR_BODY", "Request", "Session", "StreamOptions", "bearer", "problem_detail"]

# A problem body is a few hundred bytes; a proxy's error page is cut.
MAX_ERROR_BODY = 65_536

_VISIBLE = re.compile(r"[\x21-\x7e]+")
# Characters that RFC 9110 allows in a field value. Spaces at its ends would be stripped.
_FIELD_VALUE = re.compile(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")


class StreamOptions(TypedDict, total=False):
    """The options of every function that follows a stream.

    Attributes:
        headers: sent with every request.
        token: an API key, sent as ``Authorization: Bearer``.
        last_event_id: the position to go on from, as an earlier message gave it.
        retry: seconds to wait before a reconnect until the server says otherwise; 2.
        give_up_after: failures in a row after which the error is raised; None (default) never.
        max_event_bytes: the bound for one event; 8 MiB.
        on_wait: called with the ``Wait`` before each reconnect, for a message to people.
        random: floats of 0 to 1, for the jitter.
    """

    headers: Mapping[str, str] | None
    token: str | None
    last_event_id: str | None
    retry: float
    give_up_after: int | None
    max_event_bytes: int
    on_wait: Callable[[Wait], object] | None
    random: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Request:
    """The next GET request."""

    url: str
    headers: list[tuple[bytes, bytes]]


class Session:
    """The state of one followed stream. Raises UsageError for options that cannot work.

    Attributes:
        url: the stream's address.
        last_event_id: the position of the last message that was handed over; empty for none.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        last_event_id: str | None = None,
        retry: float = 2.0,
        give_up_after: int | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
        on_wait: Callable[[Wait], object] | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is not an http:// or https:// address")
        self.url = url
        self.last_event_id = last_event_id or ""
        self._reconnect = Reconnect(
            random=random,
            last_event_id=self.last_event_id,
            retry=retry,
            give_up_after=give_up_after,
        )
        self._max_event_bytes = max_event_bytes
        self._on_wait = on_wait
        self._decoder = self._new_decoder()
        self._headers = [
            (b"Accept", b"text/event-stream"),
            # "Set request's cache mode to no-store".
            (b"Cache-Control", b"no-store"),
            # Compressed bytes may wait in the other side's buffer for more to come.
            (b"Accept-Encoding", b"identity"),
        ]
        if token is not None:
            self._headers.append((b"Authorization", bearer(token)))
        for name, value in (headers or {}).items():
            self._headers.append((name.encode("ascii"), value.encode()))

    def request(self) -> Request:
        """What to ask for on the next connection."""
        position = self._reconnect.last_event_id.encode()
        if not position:
            return Request(self.url, self._headers)
        if _FIELD_VALUE.fullmatch(position):
            return Request(self.url, [*self._headers, (b"Last-Event-ID", position)])
        # An id may hold characters that no header can. Servers read the query for such clients.
        parts = urlsplit(self.url)
        query = f"{parts.query}&" if parts.query else ""
        query += "lastEventId=" + quote(position, safe="")
        return Request(urlunsplit(parts._replace(query=query)), self._headers)

    def opened(self, status: int, content_type: str) -> bool:
        """Whether the answer is a stream to ``feed``; if not, ask ``refused``."""
        if not self._reconnect.accepts(status, content_type):
            return False
        self._decoder = self._new_decoder()
        return True

    def refused(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float
    ) -> Wait | Stop:
        """What to do after an answer that is no stream. ``now`` is Unix seconds."""
        return self._told(
            self._reconnect.refused(
                status,
                content_type=headers.get("content-type", ""),
                detail=problem_detail(body),
                retry_after=headers.get("retry-after"),
                now=now,
            )
        )

    def lost(self, cause: str) -> Wait | Stop:
        """What to do after a connection that ended, broke, or could not be made."""
        return self._told(self._reconnect.lost(self.url, cause))

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Take the next bytes and hand over their messages one by one.

        ``last_event_id`` moves with the messages, not the bytes: a caller that stops half-way and
        stores it gets the rest later. Raises EventTooLargeError, see ``Decoder.feed``.
        """
        decoder = self._decoder
        messages = decoder.feed(chunk)
        if decoder.retry is not None:
            self._reconnect.take_retry(decoder.retry)
        # A server that fails at once sends an `error` event each time. That is no progress,
        # and must not reset the back-off.
        moved = decoder.last_event_id != self._reconnect.last_event_id
        if moved or any(message.event != "error" for message in messages):
            self._reconnect.received()
        self._reconnect.last_event_id = decoder.last_event_id
        for message in messages:
            self.last_event_id = message.last_event_id
            yield message
        # Blocks without data move it too.
        self.last_event_id = decoder.last_event_id
        # An event over the bound is an error after the messages before it. It must not wait for
        # more bytes, because the peer may send none.
        decoder.feed(b"")

    def _new_decoder(self) -> Decoder:
        return Decoder(
            last_event_id=self._reconnect.last_event_id, max_event_bytes=self._max_event_bytes
        )

    def _told(self, decision: Wait | Stop) -> Wait | Stop:
        if isinstance(decision, Wait) and self._on_wait is not None:
            self._on_wait(decision)
        return decision


def bearer(token: str) -> bytes:
    """The value of an ``Authorization`` header. Raises UsageError, without showing the token."""
    if not _VISIBLE.fullmatch(token):
        raise UsageError("a token is visible ASCII characters without spaces or line ends")
    return b"Bearer " + token.encode()


def problem_detail(body: bytes) -> str:
    """The message of an error's body: the detail of an RFC 9457 problem, else its first text."""
    text = body.decode("utf-8", "replace").strip()
    try:
        problem = json.loads(text)
    except (ValueError, RecursionError):
        problem = None
    if isinstance(problem, dict):
        for name in ("detail", "title"):
            if isinstance(problem.get(name), str):
                return str(problem[name])
    return text.partition("\n")[0][:200]
