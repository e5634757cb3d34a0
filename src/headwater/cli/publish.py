"""``headwater publish``: send items to a feed's REST half."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit
from uuid import uuid4

import typer

from headwater.cli.batches import (
    MAX_ITEMS,
    bodies,
    from_options,
    from_stdin,
    size_of_stdin,
)
from headwater.cli.output import put
from headwater.cli.posting import Poster
from headwater.cli.progress import progress
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
from headwater.errors import HeadwaterError, ResponseError

if TYPE_CHECKING:
    import httpx

# The name of the items in the body, by the last word of the path.
_COLLECTIONS = {"logs": "entries", "metrics": "reports", "client-activity": "activities"}
# The routes of the backend that take an Idempotency-Key.
_KNOW_KEYS = {"logs", "metrics", "notifications"}

_RUN = re.compile(r"[!-~]{1,150}")
_INTERRUPTED = 130
_UNFIT = 422


def publish(
    url: UrlArgument,
    token: TokenOption = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JSON",
            help="An object or an array of objects; may be repeated. By default it reads standard "
            "input.",
            show_default=False,
        ),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Send items together as {NAME: [...]}. By default entries for logs, reports for "
            "metrics, and activities for client-activity.",
            show_default=False,
        ),
    ] = None,
    single: Annotated[
        bool, typer.Option("--single", help="Send each object in a request of its own.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, max=MAX_ITEMS, help="The most items of one request.")
    ] = MAX_ITEMS,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A name for this run. The same name and input within a day send each line only "
            "once, however often the command runs. Requests then wait for a full batch.",
            show_default=False,
        ),
    ] = None,
    idempotent: Annotated[
        bool,
        typer.Option(
            "--idempotent",
            help="The route takes an Idempotency-Key, as logs, metrics and notifications do.",
        ),
    ] = False,
    give_up_after: GiveUpOption = None,
) -> None:
    """Send JSON objects to a feed and print the ids that they got, one a line.

    It reads one object a line from standard input, and sends the lines that have come without
    waiting for more. The server carries a request out as a whole or not at all. Each has an
    Idempotency-Key: if its answer is lost, it is sent again and still carried out only once, also
    after a restart of the server.

    The exit code is 0 when everything was sent, 1 when something was refused or the server cannot
    be reached, 2 when an argument is wrong, and 130 after Ctrl-C.
    """
    if single and collection:
        raise typer.BadParameter("give --single or --collection, not both")
    if run is not None and not _RUN.fullmatch(run):
        raise typer.BadParameter("--run: write 1 to 150 visible ASCII characters, such as import-7")
    published = 0
    try:
        from headwater.client import rest_url

        # Both halves of a feed may be given.
        address = rest_url(full_address(url))
        word = urlsplit(address).path.rpartition("/")[2]
        if collection is None and not single:
            collection = _COLLECTIONS.get(word)
        groups = from_options(data, collection) if data else from_stdin(collection)
        name = run or uuid4().hex
        total = len(data) if data else size_of_stdin()
        with rest_client(token) as client, progress("publishing", total) as bar:
            poster = Poster(
                client,
                address,
                knows_keys=idempotent or word in _KNOW_KEYS,
                give_up_after=give_up_after,
            )
            for body in bodies(groups, collection, batch, full=run is not None):
                # The number of items before it. Full batches make it the same for the same input.
                answer = poster.send(body.data, f"{name}/{published}")
                published += body.count
                # The reader of the ids may leave. The items are sent all the same.
                with suppress(BrokenPipeError):
                    for each in _ids(answer):
                        put(each)
                bar.at(body.read, total=total, says=f"{published} sent")
    except KeyboardInterrupt:
        say(f"{published} published")
        raise typer.Exit(_INTERRUPTED) from None
    except HeadwaterError as error:
        where = f"{published} published before that"
        unfit = isinstance(error, ResponseError) and error.status == _UNFIT
        if unfit and published and collection is not None:
            where += f", so {collection}.0 is object {published + 1} of the input"
        say(f"{with_hint(error, token)} ({where})")
        raise typer.Exit(1) from None
    say(f"{published} published")


def _ids(answer: httpx.Response) -> list[str]:
    members = json_object(answer)
    ids = members.get("ids", [members["id"]] if "id" in members else [])
    return [str(each) for each in ids] if isinstance(ids, list) else []
