"""``headwater users``: adds the first administrator, and other users without the console."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli.options import DatabaseOption, address_of, settings_with
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater.backend.settings import Settings
    from headwater.backend.users.schemas import UserCreate


def add(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The user's e-mail address.")],
    role: Annotated[
        str, typer.Option(help="global_admin or global_user.", metavar="ROLE")
    ] = "global_user",
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin", help="Read the password from the first line of standard input."
        ),
    ] = False,
    database: DatabaseOption = None,
) -> None:
    """Add a user, and ask for the password. It makes the schema of a new database first."""
    settings = settings_with(database=database)
    from headwater.backend.roles import GLOBAL_ROLES
    from headwater.backend.schema import check_schema, migrate
    from headwater.web.problems import Problem

    if role not in GLOBAL_ROLES:
        raise UsageError(f"--role {role}: give one of {', '.join(sorted(GLOBAL_ROLES))}.")
    _checked(email, role, "")  # before somebody types a password
    address = address_of(settings)
    if check_schema(address) == "empty":
        migrate(address)
    wanted = _checked(email, role, _first_line() if password_stdin else _ask())
    try:
        asyncio.run(_add(settings, wanted))
    except Problem as problem:
        raise UsageError(problem.detail) from problem
    print(f"{wanted.email} was added as {role}.")


def _checked(email: str, role: str, password: str) -> UserCreate:
    """The user that was asked for. Raises UsageError."""
    from pydantic import ValidationError

    from headwater.backend.users.schemas import UserCreate

    try:
        return UserCreate.model_validate({"email": email, "password": password, "role": role})
    except ValidationError as error:
        first = error.errors()[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise UsageError(f"{first['loc'][0]}: {reason}.") from error


async def _add(settings: Settings, wanted: UserCreate) -> None:
    from headwater.backend.state import open_backend

    async with open_backend(settings) as backend:
        await backend.users.create(wanted.email, wanted.password, wanted.role)


def _first_line() -> str:
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise UsageError("--password-stdin: standard input has no password in its first line.")
    return password


def _ask() -> str:
    if not sys.stdin.isatty():
        raise UsageError("There is no terminal to ask for the password: use --password-stdin.")
    answer: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return answer
