"""A followed feed: typed values, and polls of the REST half if no stream comes through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from threading import TIMEOUT_MAX
from typing import Any, Unpack
from urllib.parse import parse_qsl, urlsplit

from headwater.client._address import rest_url, stream_url, with_query
from headwater.client._feed import opened, read_feed, read_page, read_snapshot, with_items
from headwater.client._headers import merged
from headwater.client._items import converter
from headwater.client._options import FollowOptions
from headwater.client._session import Request, Session, problem_detail
from headwater.client._values import FeedValue, Item, Reset
from headwater.errors import ResponseError, UsageError
from headwater.protocol import Message, Stop, Wait

# The server sends a stream's first bytes before it reads the page. A proxy that holds them back for
# so long waits for the end of the response, which a stream does not have.
_FALLBACK = 5.0
# After so many attempts in a row that brought no byte, the client polls.
_ATTEMPTS = 3
# Below the time-outs of proxies, of which 30 s is the shortest in use.
_POLL_SECONDS = 25
# A poll that brought nothing in less time was not held by the server.
_HELD_SECONDS = 1.0
_PAGE = 100
# Seconds until the stream is tried again; twice as many each time, up to the second.
_STREAM_AGAIN = 60.0
_STREAM_AGAIN_CAP = 900.0

_OK = 200
_NO_RIGHT = {401, 403}
_IN_TROUBLE = {408, 429}
_GONE = 410
_SERVER_ERROR = 500


class FeedSession(Session[FeedValue[Any]]):
    """The state of one feed that is followed, by its stream or by long-polls of its REST half.

    Attributes:
        polling: whether it polls at the moment.
    """

    _options = FollowOptions

    def __init__(self, url: str, *, item: Any = None, **options: Unpack[FollowOptions]) -> None:
        super().__init__(url, **options)
        self._convert = converter(item)
        self._envelope = options.get("envelope")
        fallback = options.get("fallback", _FALLBACK)
        if fallback is not None and not 0 < fallback <= TIMEOUT_MAX:
            raise UsageError(f"fallback={fallback}: seconds, more than 0; None never polls")
        if not self.last_event_id:
            # So that a poll goes on from there too. On a stream the header means the same.
            self._begin(_after(self.url))
        self._rest = rest_url(self.url)
        self.url = stream_url(self.url)
        # A POST has no REST half, and may not be repeated.
        self._fallback = fallback if self._method == "GET" and self._reconnects else None
        self.polling = False
        self._event = ""
        # Attempts since the last byte.
        self._silent = 0
        self._stream_at = 0.0
        self._stream_pause = _STREAM_AGAIN
        self._asked = ("", 0.0)

    def request(self, token: str | None = None, *, now: float = 0.0) -> Request:
        if self._fallback is None:
            return super().request(token)
        if not self.polling and self._silent >= _ATTEMPTS:
            self.polling = True
            self._stream_at = now + self._stream_pause
        if self.polling and now < self._stream_at:
            return self._poll(token, now)
        if self.polling:
            self._stream_pause = min(2 * self._stream_pause, _STREAM_AGAIN_CAP)
            self.polling = False
            # If this attempt brings no byte, polling goes on.
            self._silent = _ATTEMPTS - 1
        self._silent += 1
        return replace(super().request(token), first_byte_within=self._fallback)

    def feed(self, chunk: bytes) -> None:
        if chunk:
            self._silent = 0
            self._stream_pause = _STREAM_AGAIN
        super().feed(chunk)

    def late(self) -> Wait | Stop:
        if self._fallback is None:
            return super().late()
        # Poll, at once.
        self._silent = _ATTEMPTS
        return self._decided(
            Wait(0.0, f"nothing came through the stream for {self._fallback:g} s; polling instead")
        )

    def polled(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float, wall: float
    ) -> Wait | Stop:
        """What to do after the response to a poll. ``take`` returns its values.

        ``now`` is a time of the monotonic clock, ``wall`` Unix seconds. Raises ResponseError.
        """
        position, began = self._asked
        if status == _GONE:
            self._reconnect.last_event_id = ""
            self._queue.append((Reset(_reason(body)), self._end))
            return Wait(0.0, "")
        if status in _NO_RIGHT:
            # Decides as for a stream: 401 may ask for another token.
            return self.refused(status, headers, body, now=wall)
        page = _page(body, self._envelope) if status == _OK else None
        if page is None:
            return self._not_polled(status, headers, body, wall)
        self._reconnect.received()
        values = read_page(page, self._event, position) if position else [read_snapshot(page)]
        self._queue.extend((value, value.position) for value in values)
        self._end = self._reconnect.last_event_id = page["position"]
        if position and not values and now - began < _HELD_SECONDS:
            return Wait(self._reconnect.retry, "")
        return Wait(0.0, "")

    def poll_lost(self, cause: str) -> Wait | Stop:
        """What to do after a poll without a response: try the stream, then poll again."""
        self._stream_at = 0.0
        return self.lost(cause)

    def read(self, found: Any) -> FeedValue[Any] | None:
        value: FeedValue[Any] | None = found
        if isinstance(found, Message):
            value = read_feed(found, self._envelope)
        if isinstance(value, Item):
            self._event = value.event
        if value is None or self._convert is None:
            return value
        return with_items(value, self._convert)

    def _poll(self, token: str | None, now: float) -> Request:
        position = self._reconnect.last_event_id
        self._asked = (position, now)
        url = self._rest
        if position:
            url = with_query(
                url,
                drop=["before", "lastEventId"],
                after=position,
                limit=str(_PAGE),
                wait=str(_POLL_SECONDS),
            )
        own = [*self._own_headers(token), ("Accept", "application/json")]
        return Request("GET", url, merged(own, self._headers), polls=True)

    def _not_polled(
        self, status: int, headers: Mapping[str, str], body: bytes, wall: float
    ) -> Wait | Stop:
        # Try the stream before the next poll.
        self._stream_at = 0.0
        detail = problem_detail(body) or "no page of a feed"
        if status >= _SERVER_ERROR or status in _IN_TROUBLE:
            retry_after = headers.get("retry-after")
            return self._decided(
                self._reconnect.refused(status, detail=detail, retry_after=retry_after, now=wall)
            )
        # This server has no REST half, so the stream is all there is.
        self._fallback = None
        self.polling = False
        return self._decided(
            Wait(self._reconnect.retry, f"HTTP {status} instead of a page: {detail}")
        )


def _after(url: str) -> str:
    """The position in the address's own query; empty when there is none."""
    query = dict(parse_qsl(urlsplit(url).query))
    return query.get("lastEventId") or query.get("after") or ""


def _page(body: bytes, envelope: str | None) -> Mapping[str, Any] | None:
    try:
        page = opened(json.loads(body), envelope)
        read_snapshot(page)
    except (ValueError, RecursionError, AttributeError, ResponseError):
        return None
    return page if isinstance(page, dict) else None


def _reason(body: bytes) -> str:
    try:
        reason = json.loads(body).get("reason")
    except (ValueError, RecursionError, AttributeError):
        reason = None
    return reason if isinstance(reason, str) else "unknown"
