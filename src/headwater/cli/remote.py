"""For the commands that send requests to a server: its address, the token, its errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.lines import plain_text
from headwater.errors import HeadwaterError, ResponseError

if TYPE_CHECKING:
    import httpx

_UNAUTHORIZED = 401
# Seconds that a server may take to answer.
_TIMEOUT = 30.0

UrlArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="The feed's address, such as http://localhost:8000/api/logs."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        envvar="HEADWATER_TOKEN",
        help="An API key. In the environment it does not show in the list of processes.",
        show_default=False,
        show_envvar=True,
    ),
]

GiveUpOption = Annotated[
    int | None,
    typer.Option(
        metavar="FAILURES",
        min=1,
        help="Stop after so many failures in a row. By default it never stops.",
    ),
]


def full_address(url: str) -> str:
    """``url``, with http:// in front if it names no scheme.

    Raises UsageError for what is no address, and MissingExtraError.
    """
    from headwater.client._address import checked_url

    return checked_url(url if "://" in url else f"http://{url}")


def rest_client(token: str | None) -> httpx.Client:
    """A client for the REST half of feeds. Raises UsageError for a token that cannot be sent.

    Raises MissingExtraError without the extra ``client``.
    """
    from headwater.client._headers import bearer
    from headwater.client._transport import httpx, new_client

    headers = {"Accept": "application/json"}
    if token is not None:
        headers["Authorization"] = bearer(token)
    return new_client(httpx.Client, headers=headers, timeout=_TIMEOUT)


def json_object(answer: httpx.Response) -> dict[str, Any]:
    """The members of an answer's body; none where it is no JSON object."""
    try:
        value = answer.json()
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def refusal(answer: httpx.Response) -> ResponseError:
    """The error of an answer that is no success, with each field that it names."""
    from headwater.client._address import shown
    from headwater.client._session import problem_detail

    detail = problem_detail(answer.content) or answer.reason_phrase
    if "location" in answer.headers:
        detail = f"the address moved to {answer.headers['location']}"
    error = ResponseError(answer.status_code, "; ".join([detail, *_field_errors(answer, detail)]))
    error.url = shown(str(answer.url))
    return error


def say(sentence: str) -> None:
    """Print a sentence on standard error. Standard output is for the data alone."""
    # It may quote the server, which could otherwise send commands to the terminal.
    typer.echo(f"headwater: {plain_text(sentence)}", err=True)


def with_hint(error: HeadwaterError, token: str | None) -> str:
    """The sentence of ``error``, with advice if there is any."""
    if isinstance(error, ResponseError) and error.status == _UNAUTHORIZED:
        if token:
            return f"{error} The API key of --token or HEADWATER_TOKEN was not accepted."
        return f"{error} Give an API key with --token or HEADWATER_TOKEN."
    return str(error)


def _field_errors(answer: httpx.Response, said: str) -> Iterator[str]:
    """What a 422 says of each field, but for what the problem's own sentence has ``said``."""
    for error in json_object(answer).get("errors") or ():
        if isinstance(error, dict) and str(error.get("detail")) not in said:
            yield f"{error.get('field')}: {error.get('detail')}"
