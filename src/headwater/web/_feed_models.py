"""Models of what a feed answers, for OpenAPI: its page, and the events of its stream.

FastAPI renames two models that have one name, also the application's. So a name of ours is one that
no application has: ``Headwater...``, or the feed's own with ``Feed`` after it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model

from headwater.feeds._feed import Feed
from headwater.web._pair import FeedDeclaration


class HeadwaterReset(BaseModel):
    """Why a position cannot be resumed."""

    reason: Literal["expired", "unknown"]


class HeadwaterError(BaseModel):
    """Why the stream ends."""

    status: int


class HeadwaterKey(BaseModel):
    """The key of an item that left."""

    model_config = ConfigDict(extra="allow")


def page_model(declaration: FeedDeclaration) -> Any:
    """The model of a page, in its envelope."""
    fields: dict[str, Any] = {
        declaration.feed.collection: (
            list[declaration.item],  # type: ignore[name-defined]
            Field(description="The items, oldest first."),
        ),
        "start": (str, Field(description="Where the page begins: `before` takes it.")),
        "position": (str, Field(description="Where the page ends: `after` takes it.")),
        "has_more": (
            bool,
            Field(description="Further items: newer ones with `after`, older ones otherwise."),
        ),
    }
    if declaration.keyed:
        fields["removed"] = (
            list[dict[str, Any]],
            Field(
                default=[],
                description="With `after`: keys of items that left; applied before the items.",
            ),
        )
    page = create_model(
        _name(declaration.feed, "Page"), __config__=ConfigDict(extra="forbid"), **fields
    )
    return enveloped(declaration.feed, page, "Page")


def enveloped(feed: Feed, content: Any, what: str) -> Any:
    """The model of an envelope with this content; the content itself where there is none."""
    if feed.envelope is None:
        return content
    fields: dict[str, Any] = {
        name: (content, ...) if value is ... else (_literal(value), ...)
        for name, value in feed.envelope.items()
    }
    return create_model(_name(feed, f"{what}Envelope"), **fields)


def _literal(value: Any) -> Any:
    return Literal[value] if isinstance(value, (bool, int, str, type(None))) else Any


def events_model(declaration: FeedDeclaration, page: Any) -> Any:
    """One model of all events of a feed's stream, a branch for each name."""
    feed = declaration.feed
    item = enveloped(feed, declaration.item, "Item")
    branches = [
        _event(feed, "snapshot", "Snapshot", page),
        _event(feed, feed.event, "Item", item),
    ]
    if declaration.keyed:
        key = enveloped(feed, HeadwaterKey, "Key")
        branches.append(_event(feed, f"{feed.event}_removed", "Removed", key))
    branches += [
        _event(feed, "reset", "Reset", HeadwaterReset, with_id=False),
        _event(feed, "error", "Error", HeadwaterError, with_id=False),
    ]
    branch: Any = Union[tuple(branches)]  # noqa: UP007 - their number is not known here
    union: Any = Annotated[branch, Field(discriminator="event")]
    return create_model(
        _name(feed, "Events"),
        __base__=RootModel[union],
        __doc__="One event of the stream.",
    )


def _event(
    feed: Feed, event: str, what: str, data: Any, *, with_id: bool = True
) -> type[BaseModel]:
    return event_model(_name(feed, what), Literal[event], data, with_id=with_id)


def event_model(title: str, name: Any, data: Any, *, with_id: bool) -> type[BaseModel]:
    """The model of one event; ``name`` is the type of its name."""
    fields: dict[str, Any] = {"event": (name, ...), "data": (data, ...)}
    if with_id:
        fields["id"] = (str, Field(description="A position to resume from."))
    return create_model(title, __config__=ConfigDict(json_schema_extra=_as_text), **fields)


def _as_text(schema: dict[str, Any]) -> None:
    """On the wire ``data`` is text that holds JSON (OpenAPI 3.2, 4.14.3)."""
    schema["properties"]["data"] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": schema["properties"]["data"],
    }


def _name(feed: Feed, what: str) -> str:
    words = re.findall(r"[A-Za-z0-9]+", feed.name)
    return "".join(word[0].upper() + word[1:] for word in words) + f"Feed{what}"
