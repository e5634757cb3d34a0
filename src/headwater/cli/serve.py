"""``headwater serve``: the backend."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli.options import DatabaseOption, address_of, settings_with

if TYPE_CHECKING:
    from headwater.backend.database import Address
    from headwater.backend.settings import Settings


def serve(
    host: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWATER_HOST",
            help="Address to listen at; 0.0.0.0 for all. By default 127.0.0.1.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            envvar="HEADWATER_PORT",
            help="Port to listen at; 0 takes a free one. By default 8000.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            envvar="HEADWATER_WORKERS",
            help="Number of processes, which share one socket. By default 1.",
            show_default=False,
        ),
    ] = None,
    database: DatabaseOption = None,
    event_log: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="HEADWATER_EVENT_LOG",
            help="The event log: sqlite:///path, postgresql://, redis://, nats:// or memory://. "
            "By default it is in the database.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the backend. It makes the schema of a new database first."""
    settings = settings_with(
        host=host, port=port, workers=workers, database=database, event_log=event_log
    )
    from headwater.backend.schema import check_schema, has_users, migrate
    from headwater.backend.server import Supervisor, bind, greet, is_loopback, run_worker
    from headwater.backend.server import address_of as shown
    from headwater.backend.startup import check_event_log

    # Before anything is created: a port in use is the usual failure.
    with bind(settings.host, settings.port) as listener:
        address = address_of(settings)
        check_event_log(settings, address)
        if check_schema(address) == "empty":
            migrate(address)
            print(f"Made a new database: {address.shown}")
        if not is_loopback(listener):
            print(_open_to_others(settings), file=sys.stderr)
        if not has_users(address):
            print(f"There is no user yet. Add one: {_first_user(settings, address)}")
        greeting = f"Headwater is at {shown(listener)} (Ctrl-C ends it)"
        if settings.workers == 1:
            run_worker(settings, listener, partial(greet, greeting))
            return
        code = Supervisor(settings, listener).run(greeting)
    if code:
        raise typer.Exit(code)


def _open_to_others(settings: Settings) -> str:
    wanted = [] if settings.secure_cookies else ["HEADWATER_SECURE_COOKIES=true"]
    wanted += [] if settings.allowed_hosts else ["HEADWATER_ALLOWED_HOSTS"]
    sentence = (
        f"Warning: other machines reach this server at {settings.host}, in plain HTTP: anyone on "
        "the way can read passwords and keys. Put a proxy with TLS in front"
    )
    return f"{sentence}, and set {' and '.join(wanted)}." if wanted else f"{sentence}."


def _first_user(settings: Settings, address: Address) -> str:
    from headwater.backend.settings import default_database

    where = "" if settings.database == default_database() else f" --database {address.url}"
    return f"headwater users add EMAIL --role global_admin{where}"
