"""``headwater tail``: follow a feed in the terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.filters import Filter, parse_filter, parse_since
from headwater.cli.lines import in_colour, json_line, text_line
from headwater.cli.output import put
from headwater.cli.remote import (
    GiveUpOption,
    TokenOption,
    UrlArgument,
    full_address,
    json_object,
    rest_client,
    say,
    with_hint,
)
from headwater.cli.run_output import EXIT_CODES, RunOutput
from headwater.errors import HeadwaterError

if TYPE_CHECKING:
    import httpx

    from headwater.cli.run_session import RunOrFeedSession
    from headwater.client import FeedValue, RunEvent, Wait

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
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Begin with the items since then: 90s, 10m, 2h or 1d ago, or a time such as "
            "2026-01-31T12:00.",
            show_default=False,
        ),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="TEST",
            help="Show only items with level=error, level!=debug, message~disk (contains the text) "
            "or cpu_percent>90, for example. May be repeated; an item must pass all.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the position in this file. If the file exists, continue from it.",
            show_default=False,
        ),
    ] = None,
    last_event_id: Annotated[
        str | None,
        typer.Option(metavar="POSITION", help="Continue after this position, without older items."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="How many older items to show first."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many items.")] = None,
    give_up_after: GiveUpOption = None,
) -> None:
    """Follow a feed and print its items, one a line, oldest first. Or follow a run to its end.

    URL is the address of the feed or of its stream, with the feed's own parameters, as in
    ".../api/logs?level=error". After a disconnect it connects again and continues where it was; it
    says so on standard error. On a terminal, lines have the colour of their level, unless NO_COLOR
    is set.

    It prints the text of a run as it comes, and other events in lines of their own. It ends when
    the run ends, with exit code 0 for done, 3 for failed, 4 for cancelled and 5 for lost.

    The exit code of a feed is 0 when Ctrl-C, SIGTERM, --count, the reader of a pipe or the server
    ends it. It is 1 when it cannot continue: without permission, without such a feed, after
    --give-up-after, or when a file cannot be written. It is 2 when an argument is wrong.
    """
    tests = [parse_filter(text) for text in filters or ()]
    moment = None if since is None else parse_since(since, datetime.now(UTC))
    if since is not None and (limit is not None or last_event_id is not None):
        raise typer.BadParameter("give --since, or --limit and --last-event-id, not both")
    shown = _Shown(as_json, tests, count)
    try:
        with rest_client(token) as client:
            from headwater.cli.history import items_since
            from headwater.cli.run_session import RunOrFeedSession
            from headwater.client import rest_url, stream_url
            from headwater.client._address import shown as without_password
            from headwater.client._address import with_query

            address = full_address(url)
            reports = _Reports(without_password(stream_url(address)))
            if limit is not None:
                address = with_query(address, limit=str(limit))
            first: Sequence[Mapping[str, Any]] = ()
            if moment is not None and not (state is not None and state.exists()):
                first, last_event_id = items_since(client, rest_url(address), moment)
            session = RunOrFeedSession(
                address,
                token=token,
                last_event_id=last_event_id,
                position_file=state,
                give_up_after=give_up_after,
                on_wait=reports.waits,
                on_open=reports.opened,
            )
            # Not the client without asyncio: a signal that comes just before a thread begins to
            # wait for bytes would be noticed with the next bytes.
            ended = asyncio.run(_follow(session, first, shown, state))
            run_state = shown.run.state
            if ended and run_state is None and not shown.position:
                run_state = _ended_before(client, rest_url(address))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return
    except HeadwaterError as error:
        say(with_hint(error, token))
        raise typer.Exit(1) from None
    except BrokenPipeError:
        return  # `| head` has what it wanted
    if run_state is not None and run_state != "done":
        say(f"the run is {run_state}")
        raise typer.Exit(EXIT_CODES.get(run_state, 0))


async def _follow(
    session: RunOrFeedSession,
    first: Sequence[Mapping[str, Any]],
    shown: _Shown,
    state: Path | None,
) -> bool:
    """Follow a feed or a run. Returns whether the server has ended it."""
    from headwater.client import AsyncFeed

    feed: AsyncFeed[Any] = AsyncFeed(session)
    _end_on_sigterm()
    try:
        async with feed:
            shown.items(first)
            while not shown.enough:
                shown.value(await anext(feed))
    except StopAsyncIteration:
        return True
    except _Stopped:
        # In the middle of a snapshot its position, which is that of its end, is not kept.
        pass
    except asyncio.CancelledError:
        # The usual end of following, and so no failure. A signal ends it between two values.
        if state is None and shown.position:
            say(f"to continue from here: --last-event-id '{shown.position}'")
        elif state is not None and feed.last_event_id:
            say(f"to continue from here: --state {state}")
        raise
    return False


def _ended_before(client: httpx.Client, url: str) -> str | None:
    """The state of a run that had ended before; None if it is a feed."""
    import httpx

    try:
        state = json_object(client.get(url)).get("state")
    except httpx.HTTPError:
        return None
    return state if isinstance(state, str) else None


def _end_on_sigterm() -> None:
    task = asyncio.current_task()
    assert task is not None
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


class _Stopped(Exception):  # noqa: N818 - no error
    """The count was reached within a value, so its further items are not printed."""


class _Shown:
    """Prints items, up to a count.

    Attributes:
        position: of the last value that was printed as a whole.
        run: prints the events of a run.
    """

    def __init__(self, as_json: bool, tests: Sequence[Filter], count: int | None) -> None:
        self.position = ""
        self._as_json = as_json
        self._tests = tests
        self._left = count
        self._line = _line(as_json)
        self.run = RunOutput(as_json)

    @property
    def enough(self) -> bool:
        return self._left == 0 or self.run.state is not None

    def items(self, items: Sequence[Mapping[str, Any]]) -> None:
        for item in items:
            if self.enough:
                raise _Stopped
            if all(test.matches(item) for test in self._tests):
                self._print(self._line(item))

    def value(self, value: FeedValue[Any] | RunEvent) -> None:
        from headwater.client import Item, Removed, RunEvent, Snapshot

        if isinstance(value, RunEvent):
            self.run.event(value)
            self.position = value.position or self.position
            return
        if isinstance(value, Snapshot):
            self.items(value.items)
        elif isinstance(value, Item):
            self.items([value.data])
        elif isinstance(value, Removed):
            self._print(
                json_line({"_removed": value.key})
                if self._as_json
                else f"removed {text_line(value.key)}"
            )
        else:
            say(_RESETS.get(value.reason, f"the server started anew: {value.reason}"))
            return
        # Only now, so that an item that was not printed comes again.
        self.position = value.position

    def _print(self, line: str) -> None:
        put(line)
        if self._left is not None:
            self._left -= 1


class _Reports:
    """Says on standard error when the connection is lost and when it is back."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._reached = False
        self._lost_at: float | None = None

    def waits(self, wait: Wait) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        # It may be the wrong address.
        where = "" if self._reached else f"{self._url}: "
        say(f"{where}{wait.cause}; connecting again in {wait.seconds:.1f} s")

    def opened(self, _: object) -> None:
        self._reached = True
        if self._lost_at is not None:
            say(f"connected again after {time.monotonic() - self._lost_at:.1f} s")
            self._lost_at = None


def _line(as_json: bool) -> Callable[[Mapping[str, Any]], str]:
    if as_json:
        return json_line
    # https://no-color.org: any value but the empty one.
    plain = (
        not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    )
    return text_line if plain else lambda item: in_colour(item, text_line(item))
