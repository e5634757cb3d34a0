"""``headwater check MODULE:APP``: the pair convention."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

__all__ = ["check"]


def check(
    app: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="An application, or what makes one.")
    ],
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Compare the tracked tables of the application with this database too: "
            "sqlite:///path or postgresql://user@host/name.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Verify that every stream of an application has a REST twin that fits it.

    Exits 1 with one line for each breach: a stream without twin, other parameters or another
    permission on one half, a path that is not /api/{resource}/{action}/stream. With --database also
    one line for each table whose triggers, columns or indexes are not those of its model, with the
    call of add_tracking() that mends it in a migration. Of each live query it prints which links
    it needs and which of their columns no index begins with; links that are missing are breaches.
    """
    from starlette.applications import Starlette

    from headwater.web.convention import breaches, pairs

    loaded = _load(app)
    if not isinstance(loaded, Starlette):
        _refuse(f"{app} is {type(loaded).__name__}, not a FastAPI or Starlette application")
    drifted, needed = ([], []) if database is None else _compared(database)
    found = [*breaches(loaded), *drifted]
    for line in (*needed, *found):
        typer.echo(line)
    if found:
        raise typer.Exit(1)
    count = len(pairs(loaded))
    typer.echo(f"{app}: {count} pair{'s' * (count != 1)}, no breach")


def _compared(database: str) -> tuple[list[str], list[str]]:
    """A line for each table that lacks something, and for what each live query needs."""
    import asyncio

    from headwater.cli.relay import engine_of
    from headwater.errors import DeclarationError
    from headwater.sql._declaration import TRACKED
    from headwater.sql._migration import drifts
    from headwater.sql.query._live import DECLARED
    from headwater.sql.query._needs import needs_of

    async def compare() -> tuple[list[str], list[str]]:
        engine = engine_of(database)
        async with engine.connect() as connection:
            found = await connection.run_sync(drifts, TRACKED)
            needs = await connection.run_sync(needs_of, DECLARED)
        await engine.dispose()
        lines = [str(each) for each in found]
        return [*lines, *(line for each in needs for line in each.missing)], list(map(str, needs))

    try:
        return asyncio.run(compare())
    except DeclarationError as error:
        _refuse(str(error))


def _load(name: str) -> Any:
    module_name, separator, attribute = name.partition(":")
    if not separator or not module_name or not attribute:
        _refuse(f"{name!r}: write MODULE:APP, such as main:app")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            _refuse(f"there is no module {error.name!r} here")
        raise
    for part in attribute.split("."):
        if not hasattr(found, part):
            _refuse(f"{module_name} has no {attribute!r}")
        found = getattr(found, part)
    if callable(found) and not hasattr(found, "routes"):
        found = found()
    return found


def _refuse(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(2)
