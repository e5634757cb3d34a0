"""``headwater --version``."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater import __version__


def _print(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


def version(
    _: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print, help="Print the version."),
    ] = False,
) -> None:
    """Live feeds: a REST endpoint and an event stream that show the same items."""
