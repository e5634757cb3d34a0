"""A feed's messages as typed values, without I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from headwater.errors import ResponseError
from headwater.protocol import Message

__all__ = ["FeedValue", "Item", "Removed", "Reset", "Snapshot", "read_feed", "stream_url"]

_OK = 200
_REMOVED = "_removed"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest items, oldest first, as the REST half of the feed gives them.

    Attributes:
        collection: the name of the items in the REST body, such as ``logs``.
        items: the JSON objects.
        start: ``before=start`` is the page that comes just before.
        position: where the snapshot ends.
        has_more: whether there are older items.
    """

    collection: str
    items: Sequence[Mapping[str, Any]]
    start: str | None
    position: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class Item:
    """A new item; in a keyed feed, it replaces the one with the same key.

    Attributes:
        event: the feed's event name, such as ``log``.
        data: the JSON object.
        position: ``last_event_id=position`` goes on after this item.
    """

    event: str
    data: Mapping[str, Any]
    position: str


@dataclass(frozen=True, slots=True)
class Removed:
    """An item left a keyed feed.

    Attributes:
        event: the feed's event name, without ``_removed``.
        key: the item's key by name.
        position: as in ``Item``.
    """

    event: str
    key: Mapping[str, Any]
    position: str


@dataclass(frozen=True, slots=True)
class Reset:
    """The position could not be resumed: forget what was shown. A snapshot follows.

    Attributes:
        reason: ``expired`` (there may be items in between that are no longer kept) or ``unknown``.
    """

    reason: str


FeedValue = Snapshot | Item | Removed | Reset


def read_feed(message: Message) -> FeedValue | None:
    """The value of one message of a feed; None for an error that a reconnect may mend.

    Raises ResponseError when the server ended the stream for good (``event: error`` with 401 or
    403), and when a message is not what a feed sends.
    """
    body = _object(message)
    if message.event == "snapshot":
        return _snapshot(body)
    if message.event == "reset":
        return Reset(str(body.get("reason", "unknown")))
    if message.event == "error":
        status = body.get("status")
        if status in (401, 403):
            detail = body.get("detail") or "the right to read this feed has ended"
            raise ResponseError(status, str(detail))
        return None
    if message.event.endswith(_REMOVED):
        return Removed(message.event.removesuffix(_REMOVED), body, message.last_event_id)
    return Item(message.event, body, message.last_event_id)


def _object(message: Message) -> dict[str, Any]:
    try:
        body = json.loads(message.data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ResponseError(_OK, f"the data of a {message.event!r} event is not a JSON object")
    return body


def _snapshot(body: dict[str, Any]) -> Snapshot:
    collections = [name for name, value in body.items() if isinstance(value, list)]
    position = body.get("position")
    if len(collections) != 1 or not isinstance(position, str):
        raise ResponseError(_OK, "a snapshot must hold one list of items and a position")
    return Snapshot(
        collection=collections[0],
        items=body[collections[0]],
        start=body.get("start"),
        position=position,
        has_more=bool(body.get("has_more", False)),
    )


def stream_url(url: str) -> str:
    """The address of a feed's stream, also from the address of its REST half.

    >>> stream_url("http://localhost:8000/api/logs?level=error")
    'http://localhost:8000/api/logs/stream?level=error'
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if not path.endswith("/stream"):
        path += "/stream"
    return urlunsplit(parts._replace(path=path, fragment=""))
