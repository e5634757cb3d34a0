"""Makes typed values of a feed's messages and pages, without I/O."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from headwater.client._items import Convert
from headwater.client._values import FeedValue, Item, Removed, Reset, Snapshot
from headwater.errors import ResponseError
from headwater.protocol import Message

_OK = 200
_REMOVED = "_removed"
# The statuses of an ``error`` event after which no reconnect helps.
_FATAL = {
    401: "the right to this stream has ended",
    403: "the right to this stream has ended",
    413: "the feed has too many items",
}


def read_feed(message: Message, envelope: str | None = None) -> FeedValue[Mapping[str, Any]] | None:
    """The value of one message of a feed; None for an error after which the client reconnects.

    ``envelope`` names the member that has the page or item, if there is an envelope.

    Raises ResponseError for an error that ends the stream for good: the right to it was lost (401,
    403), or the feed has too many items to send them all (413). Also for what no feed sends (200).
    """
    body = object_of(message)
    if message.event == "reset":
        return Reset(str(body.get("reason", "unknown")))
    if message.event == "error":
        check_error(body)
        return None
    body = opened(body, envelope)
    if message.event == "snapshot":
        return read_snapshot(body)
    if message.event.endswith(_REMOVED):
        return Removed(message.event.removesuffix(_REMOVED), body, message.last_event_id)
    return Item(message.event, body, message.last_event_id)


def check_error(body: Mapping[str, Any]) -> None:
    """Raise ResponseError if the data of an ``error`` event says that the stream ends for good."""
    status = body.get("status")
    if isinstance(status, int) and status in _FATAL:
        raise ResponseError(status, str(body.get("detail") or _FATAL[status]))


def opened(body: Any, envelope: str | None) -> Any:
    """The object in the envelope. Raises ResponseError if there is none."""
    if envelope is None:
        return body
    found = body.get(envelope) if isinstance(body, dict) else None
    if not isinstance(found, dict):
        raise ResponseError(_OK, f"an answer of the feed has no object {envelope!r}")
    return found


def read_snapshot(body: Mapping[str, Any]) -> Snapshot[Mapping[str, Any]]:
    """The page as a snapshot. Raises ResponseError."""
    collection, items = _items(body, "a snapshot")
    start = body.get("start")
    return Snapshot(
        collection=collection,
        items=items,
        start=start if isinstance(start, str) else None,
        position=body["position"],
        has_more=bool(body.get("has_more", False)),
    )


def read_page(
    body: Mapping[str, Any], event: str, before: str
) -> list[Removed | Item[Mapping[str, Any]]]:
    """The values of a page after the position ``before``: removals first, then items.

    A page has one position, that of its end. So only its last value has that position, and the
    others have ``before``. Raises ResponseError.
    """
    collection, items = _items(body, "a page")
    removed = body.get("removed") or []
    if not isinstance(removed, list) or not all(isinstance(key, dict) for key in removed):
        raise ResponseError(_OK, "a page's removed must be a list of JSON objects")
    name = event or collection
    values: list[Any] = [Removed(name, key, before) for key in removed]
    values += [Item(name, item, before) for item in items]
    if values:
        values[-1] = dataclasses.replace(values[-1], position=body["position"])
    return values


def with_items(value: FeedValue[Any], convert: Convert) -> FeedValue[Any]:
    """The value with its items converted. Raises what ``convert`` does."""
    if isinstance(value, Snapshot):
        return dataclasses.replace(value, items=[convert(item) for item in value.items])
    if isinstance(value, Item):
        return dataclasses.replace(value, data=convert(value.data))
    return value


def object_of(message: Message) -> dict[str, Any]:
    """The data of an event. Raises ResponseError if it is not a JSON object."""
    try:
        body = json.loads(message.data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ResponseError(_OK, f"the data of a {message.event!r} event is not a JSON object")
    return body


def _items(body: Mapping[str, Any], what: str) -> tuple[str, Sequence[Mapping[str, Any]]]:
    lists = [name for name, value in body.items() if isinstance(value, list) and name != "removed"]
    # A feed may call its items "removed" too.
    names = lists or [name for name in ("removed",) if isinstance(body.get(name), list)]
    if len(names) != 1 or not isinstance(body.get("position"), str):
        raise ResponseError(_OK, f"{what} must hold one list of items and a position")
    items = body[names[0]]
    if not all(isinstance(item, dict) for item in items):
        raise ResponseError(_OK, f"the items of {what} must be JSON objects")
    return names[0], items
