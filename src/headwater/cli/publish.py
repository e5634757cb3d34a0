"""``headwater publish``: send items to a feed's REST half."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import typer

from headwater.cli.remote import TokenOption, UrlArgument, full_address, say, with_hint
from headwater.errors import (
    EncodingError,
    HeadwaterError,
    MissingExtraError,
    PeerError,
    ResponseError,
    UsageError,
)

if TYPE_CHECKING:
    import httpx

__all__ = ["publish"]

# The name of the items in the body, by the last word of the path.
_COLLECTIONS = {"logs": "entries", "metrics": "reports", "client-activity": "activities"}

# The backend takes 1,000 items, and bodies of up to a megabyte.
_MAX_ITEMS = 1000
_MAX_BYTES = 500_000

_TIMEOUT = 30.0
_READ_SIZE = 65_536
_INTERRUPTED = 130


def publish(
    url: UrlArgument,
    token: TokenOption = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JSON",
            help="An object, or an array of them; may be repeated. Else standard input is read.",
            show_default=False,
        ),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Send items together as {NAME: [...]}. Known for logs, metrics, client-activity.",
            show_default=False,
        ),
    ] = None,
    single: Annotated[
        bool, typer.Option("--single", help="Send each object as a body of its own.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, max=_MAX_ITEMS, help="Items sent together, at most.")
    ] = _MAX_ITEMS,
) -> None:
    """Send JSON objects to a feed and print the ids that they got, one a line.

    Reads one object a line from standard input, and sends what has come without waiting for more.
    Each request is written as a whole or not at all.
    """
    if single and collection:
        raise typer.BadParameter("give --single or --collection, not both")
    address = _rest_address(full_address(url))
    if collection is None and not single:
        collection = _COLLECTIONS.get(urlsplit(address).path.rpartition("/")[2])
    published = 0
    try:
        with _client(token) as client:
            for items in _groups(data, collection):
                for body, count in _bodies(items, collection, batch):
                    answer = _post(client, address, body)
                    published += count
                    for each in _ids(answer):
                        print(each, flush=True)
    except KeyboardInterrupt:
        say(f"{published} published")
        raise typer.Exit(_INTERRUPTED) from None
    except HeadwaterError as error:
        say(f"{with_hint(error, token)} ({published} published before that)")
        raise typer.Exit(1) from None
    say(f"{published} published")


def _rest_address(url: str) -> str:
    """The address without a ``/stream`` at its end: both halves may be given."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/stream")
    return urlunsplit(parts._replace(path=path, fragment=""))


def _client(token: str | None) -> httpx.Client:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError("client", "httpx") from error
    from headwater.client.headers import bearer

    headers = [(b"Content-Type", b"application/json"), (b"Accept", b"application/json")]
    if token is not None:
        headers.append((b"Authorization", bearer(token).encode()))
    return httpx.Client(headers=headers, timeout=_TIMEOUT)


def _groups(data: list[str] | None, collection: str | None) -> Iterator[list[bytes]]:
    """The items in groups that are ready at the same time, each item encoded."""
    if data:
        parsed = [_parse(text, f"--data {text[:40]!r}", collection) for text in data]
        yield [item for items in parsed for item in items]
        return
    if sys.stdin.isatty():
        say("reading JSON objects from the terminal, one a line; Ctrl-D ends")
    number = 0
    for lines in _ready_lines():
        items: list[bytes] = []
        for line in lines:
            number += 1
            if line.strip():
                items.extend(_parse(line, f"line {number}", collection))
        yield items


def _ready_lines() -> Iterator[list[bytes]]:
    """The whole lines of standard input, as many at a time as have come."""
    stdin: Any = sys.stdin.buffer
    rest = b""
    while chunk := stdin.read1(_READ_SIZE):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    if rest:
        yield [rest]


def _parse(text: str | bytes, name: str, collection: str | None) -> list[bytes]:
    from headwater.protocol import to_json

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON: {error}") from None
    if collection is not None and isinstance(value, dict) and list(value) == [collection]:
        value = value[collection]  # somebody wrapped it already
    items: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in items):
        raise UsageError(f"{name} is not a JSON object")
    try:
        return [to_json(item).encode() for item in items]
    except EncodingError as error:
        raise UsageError(f"{name} is not JSON: {error}") from None


def _bodies(
    items: Iterable[bytes], collection: str | None, batch: int
) -> Iterator[tuple[bytes, int]]:
    """Request bodies, each with the number of its items."""
    if collection is None:
        yield from ((item, 1) for item in items)
        return
    head = b"{%b:[" % json.dumps(collection).encode()
    held: list[bytes] = []
    size = 0
    for item in items:
        if held and (len(held) == batch or size + len(item) > _MAX_BYTES):
            yield head + b",".join(held) + b"]}", len(held)
            held, size = [], 0
        held.append(item)
        size += len(item) + 1
    if held:
        yield head + b",".join(held) + b"]}", len(held)


def _post(client: httpx.Client, url: str, body: bytes) -> httpx.Response:
    import httpx

    from headwater.client.session import problem_detail
    from headwater.client.transport import cause_of

    try:
        answer = client.post(url, content=body)
    except httpx.ConnectError as error:
        raise PeerError(f"{url} cannot be reached: {cause_of(error)}") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        # Not sent again: it may have been written.
        raise PeerError(
            f"{url}: {cause_of(error)}; whether the last request was written is not known"
        ) from error
    if answer.is_success:
        return answer
    detail = problem_detail(answer.content) or answer.reason_phrase
    if "location" in answer.headers:
        detail = f"the address moved to {answer.headers['location']}"
    raise ResponseError(answer.status_code, "; ".join([detail, *_field_errors(answer, detail)]))


def _field_errors(answer: httpx.Response, said: str) -> Iterator[str]:
    """What a 422 says of each field, without what the problem's own sentence ``said`` already."""
    for error in _members(answer).get("errors") or ():
        if isinstance(error, dict) and str(error.get("detail")) not in said:
            yield f"{error.get('field')}: {error.get('detail')}"


def _ids(answer: httpx.Response) -> list[str]:
    members = _members(answer)
    ids = members.get("ids", [members["id"]] if "id" in members else [])
    return [str(each) for each in ids] if isinstance(ids, list) else []


def _members(answer: httpx.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
