"""``headwater tail``: follow a feed in the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import typer

from headwater.cli.lines import json_line, text_line
from headwater.cli.remote import TokenOption, UrlArgument, full_address, say, with_hint
from headwater.errors import HeadwaterError

if TYPE_CHECKING:
    from headwater.client import FeedValue
    from headwater.client.sync import Feed

__all__ = ["tail"]

_RESETS = {
    "expired": "that position is older than what the feed keeps: items in between may be missing",
    "unknown": "that position is not one of this feed: starting anew",
}


def tail(
    url: UrlArgument,
    token: TokenOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each item as one line of JSON.")
    ] = False,
    last_event_id: Annotated[
        str | None,
        typer.Option(metavar="POSITION", help="Go on after this position, without older items."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="How many older items to show first."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many items.")] = None,
    give_up_after: Annotated[
        int | None,
        typer.Option(
            metavar="FAILURES", min=1, help="Stop after so many failures in a row. [never]"
        ),
    ] = None,
) -> None:
    """Follow a feed and print its items, one a line, oldest first.

    URL is the feed or its stream; filters go into its query, as in ".../api/logs?level=error".
    After a disconnect it goes on where it was. Ctrl-C ends it and tells the position.
    """
    from headwater.client.sync import follow

    try:
        feed = follow(
            _with_limit(full_address(url), limit),
            token=token,
            last_event_id=last_event_id,
            give_up_after=give_up_after,
            on_wait=lambda wait: say(f"{wait.cause}; connecting again in {wait.seconds:.1f} s"),
        )
        with feed:
            _print(feed, as_json, count)
    except HeadwaterError as error:
        say(with_hint(error, token))
        raise typer.Exit(1) from None


def _print(feed: Feed[Any], as_json: bool, count: int | None) -> None:
    printed = 0
    position = ""
    try:
        for value in feed:
            for line in _lines(value, as_json):
                print(line, flush=True)
                printed += 1
                if printed == count:
                    return
            # Only now: what was not printed must come again.
            position = feed.last_event_id
    except KeyboardInterrupt:
        # The usual end of following, and so no failure.
        if position:
            say(f"to go on from here: --last-event-id '{position}'")
    except BrokenPipeError:
        # `| head` has what it wanted. The interpreter's own last flush must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _lines(value: FeedValue[Any], as_json: bool) -> Iterator[str]:
    from headwater.client import Item, Removed, Snapshot

    line = json_line if as_json else text_line
    if isinstance(value, Snapshot):
        yield from map(line, value.items)
    elif isinstance(value, Item):
        yield line(value.data)
    elif isinstance(value, Removed):
        yield json_line({"_removed": value.key}) if as_json else f"removed {text_line(value.key)}"
    else:
        say(_RESETS.get(value.reason, f"the server started anew: {value.reason}"))


def _with_limit(url: str, limit: int | None) -> str:
    if limit is None:
        return url
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "limit"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("limit", limit)])))
