"""For the backend's commands: options that are settings, and the address of the database."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from headwater.backend.database import Address
    from headwater.backend.settings import Settings

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="HEADWATER_DATABASE",
        help="The database: sqlite:///path or postgresql://user@host/name. "
        "By default a file in your data folder.",
        show_default=False,
    ),
]


def settings_with(**options: Any) -> Settings:
    """Settings from the environment and from the options that were given.

    Raises UsageError, and MissingExtraError without the extra ``backend``.
    """
    try:
        from pydantic import ValidationError

        from headwater.backend.settings import Settings
    except ModuleNotFoundError as error:
        raise MissingExtraError("backend", error.name or "the backend") from error
    _warn_of_unknown(Settings)
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        option = f"--{name.replace('_', '-')}" if name in given else f"HEADWATER_{name.upper()}"
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise UsageError(f"{option}={first['input']!r}: {reason}.") from error


def _warn_of_unknown(known: type[Settings]) -> None:
    """Print a warning for each variable whose name is almost that of a setting.

    No error: a cluster may set variables of its own for a service that is called headwater.
    """
    names = [f"HEADWATER_{name.upper()}" for name in known.model_fields]
    for name in os.environ:
        if name.upper().startswith("HEADWATER_") and name.upper() not in names:
            for meant in get_close_matches(name.upper(), names, n=1, cutoff=0.9):
                print(f"Warning: {name} is no setting: did you mean {meant}?", file=sys.stderr)


def address_of(settings: Settings) -> Address:
    """The database's address; the default one's folder is made.

    Raises StartupError.
    """
    from headwater.backend.database import Address
    from headwater.backend.settings import default_database, default_folder

    if settings.database == default_database():
        # The user's own data: other users must not read it.
        default_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    return Address.parse(settings.database)
