"""``headwater check MODULE:APP``: the pair convention."""

from __future__ import annotations

import importlib
import inspect
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer


def check(
    app: Annotated[
        str,
        typer.Argument(metavar="MODULE:APP", help="An application, or a function that makes one."),
    ],
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Also compare the application's tracked tables with this database: "
            "sqlite:///path or postgresql://user@host/name.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check that every stream of an application has a REST twin that fits it.

    It prints a line for each breach, and exits with 1 if there is any. A breach is a stream without
    a twin, a parameter or permission that only one of the two has, or a path that is not
    /api/{resource}/{action}/stream.

    With --database it also prints a line for each table whose triggers, columns or indexes differ
    from its model, with the call of add_tracking() that mends it in a migration. For each live
    query it prints the links that it needs, and which of their columns no index begins with.
    Missing links are breaches.
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
    """The lines about tables that lack something, and about the needs of live queries."""
    import asyncio

    from headwater.cli.relay import engine_of
    from headwater.errors import DeclarationError
    from headwater.sql._declaration import TRACKED
    from headwater.sql._faults import unavailable
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
    except Exception as error:
        if (said := unavailable(error)) is None:
            raise
        _refuse(f"--database: {said}")


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
        with suppress(ValueError):  # some functions in C have no signature
            try:
                inspect.signature(found).bind()
            except TypeError as error:
                _refuse(f"{name} is a function that cannot be called without arguments: {error}")
        found = found()
    return found


def _refuse(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(2)
