"""What the commands that talk to a server have in common: its address, the token, its errors."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.errors import HeadwaterError, ResponseError

__all__ = ["TokenOption", "UrlArgument", "full_address", "say", "with_hint"]

_UNAUTHORIZED = 401

UrlArgument = Annotated[
    str,
    typer.Argument(metavar="URL", help="The feed, such as http://localhost:8000/api/logs."),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        envvar="HEADWATER_TOKEN",
        help="An API key. The environment keeps it out of the list of processes.",
        show_default=False,
        show_envvar=True,
    ),
]


def full_address(url: str) -> str:
    """``url`` with http:// in front when it names no scheme, as people type it."""
    return url if "://" in url else f"http://{url}"


def say(sentence: str) -> None:
    """Print a message for people. Standard output is for the data alone."""
    typer.echo(f"headwater: {sentence}", err=True)


def with_hint(error: HeadwaterError, token: str | None) -> str:
    """The sentence of ``error``, with advice where there is some."""
    if isinstance(error, ResponseError) and error.status == _UNAUTHORIZED and not token:
        return f"{error} Give an API key with --token or HEADWATER_TOKEN."
    return str(error)
