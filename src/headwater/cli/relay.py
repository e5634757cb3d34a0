"""``headwater relay``: move a tracked table into an event log."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headwater.cli.progress import Bar, progress
from headwater.errors import (
    DeclarationError,
    MissingExtraError,
    RelayStoppedError,
    SourceUnavailableError,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from headwater.relay import Relay

# Seconds between two tries to read a table of a database that is away.
_RETRY = 1.0
_SHOWN_EVERY = 0.5
_ENDS = (signal.SIGTERM, signal.SIGINT)


def relay(
    database: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="HEADWATER_DATABASE",
            help="The table's database: sqlite:///path or postgresql://user@host/name.",
            show_default=False,
        ),
    ],
    table: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A tracked table; on PostgreSQL SCHEMA.NAME for another schema.",
            show_default=False,
        ),
    ],
    event_log: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="HEADWATER_EVENT_LOG",
            help="The event log: sqlite:///path, postgresql://, redis:// or nats://.",
            show_default=False,
        ),
    ],
    topic: Annotated[
        str, typer.Option(metavar="NAME", help="The topic to append to.", show_default=False)
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The relay's name, unique in the database. By default the topic.",
            show_default=False,
        ),
    ] = None,
    order: Annotated[
        Literal["prompt", "total"],
        typer.Option(
            metavar="prompt|total",
            help="On PostgreSQL: append a row when it commits (prompt), or once no older "
            "transaction is open (total).",
        ),
    ] = "prompt",
    start: Annotated[
        Literal["beginning", "now"],
        typer.Option(
            metavar="beginning|now",
            help="What a new relay begins with: all existing rows, or only rows from now on.",
        ),
    ] = "beginning",
    on_reset: Annotated[
        Literal["stop", "repeat", "skip"],
        typer.Option(
            metavar="stop|repeat|skip",
            help="When the table or the log was replaced: stop; append all rows again (repeat), so "
            "that none is missing; or append only new ones (skip), so that none is there twice.",
        ),
    ] = "stop",
    lease: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            max=3600,
            help="If a process is silent for this time, another one takes over.",
        ),
    ] = 5.0,
    batch: Annotated[
        int, typer.Option(metavar="EVENTS", min=1, help="The most events of one append.")
    ] = 500,
) -> None:
    """Move a tracked table's rows into a topic of an event log, each exactly once.

    An event has a row's columns as JSON. For a row that was removed from a keyed table it is
    {"_removed": {its key}}. The command runs until SIGTERM or Ctrl-C, and continues where it was
    when it is started again. Any number of processes may run the same relay: one works, the others
    wait.
    """
    try:
        from headwater.relay import Relay
    except ModuleNotFoundError as error:
        raise MissingExtraError("sql", error.name or "sqlalchemy") from error
    from headwater.eventlog import open_log

    logging.getLogger("headwater").setLevel(logging.INFO)

    async def run() -> None:
        async with AsyncExitStack() as stack:
            engine = engine_of(database)
            stack.push_async_callback(engine.dispose)
            log = open_log(event_log)
            stack.push_async_callback(log.close)
            ending = _ending()
            found = await _table(engine, table, order, ending)
            if found is None:
                return
            moving = Relay(
                found,
                log,
                topic,
                name=name,
                start=start,
                on_reset=on_reset,
                lease=lease,
                batch=batch,
            )
            print(f"Relays table {table} into topic {topic} (Ctrl-C ends it)", flush=True)
            await _run(moving, ending, bar)
            print(f"{moving.relayed} relayed", flush=True)

    try:
        with progress("relaying") as bar:
            # Its handler must write above the bar, so it is made within.
            logging.basicConfig(
                stream=sys.stderr,
                level=logging.WARNING,
                format="%(asctime)s %(message)s",
                force=True,
            )
            asyncio.run(run())
    except RelayStoppedError as error:
        raise DeclarationError(
            f"Relay {error.relay} stopped: {error.detail}. Start it once with --on-reset repeat, "
            "after which events may be there twice, or skip, after which some may be missing."
        ) from error


def _ending() -> asyncio.Event:
    """Set by SIGTERM and Ctrl-C. A second signal ends the process without waiting."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask() -> None:
        asked.set()
        for number in _ENDS:
            loop.remove_signal_handler(number)

    for number in _ENDS:
        loop.add_signal_handler(number, ask)
    return asked


async def _run(moving: Relay, ending: asyncio.Event, bar: Bar) -> None:
    async def stop() -> None:
        await ending.wait()
        moving.stop()

    async def show() -> None:
        while True:
            bar.at(moving.relayed, says=f"{moving.relayed} events")
            await asyncio.sleep(_SHOWN_EVERY)

    beside = [asyncio.create_task(stop()), asyncio.create_task(show())]
    try:
        await moving.run()
    finally:
        for task in beside:
            task.cancel()


async def _table(engine: AsyncEngine, name: str, order: Any, ending: asyncio.Event) -> Any:
    """The table, once the database can be reached; None if the process is to end before."""
    from headwater.sql import Table
    from headwater.sql._reflection import reflect

    said = ""
    while not ending.is_set():
        try:
            return Table(engine, await reflect(engine, name), order=order)
        except SourceUnavailableError as error:
            if str(error) != said:
                said = str(error)
                logging.getLogger("headwater.relay").warning("%s; trying again", said)
        try:
            async with asyncio.timeout(_RETRY):
                await ending.wait()
        except TimeoutError:
            continue
    return None


def engine_of(url: str) -> AsyncEngine:
    """An engine for a database with tables. Raises DeclarationError."""
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import create_async_engine

    from headwater.sql import configure_sqlite, postgresql_engine
    from headwater.sql.postgresql._connections import SCHEMES
    from headwater.sql.sqlite._connections import path_of

    scheme, _, rest = url.partition("://")
    if scheme.lower() in SCHEMES:
        return postgresql_engine(url)
    if scheme.lower() not in {"sqlite", "sqlite+aiosqlite"}:
        # The rest of an address may hold a password, so it is not shown.
        raise DeclarationError(
            f"{scheme + '://' if rest else 'this'} is no database whose tables can be "
            "followed: give sqlite:///path or postgresql://user@host/name"
        )
    path = path_of(url)
    if not path.is_file():
        raise DeclarationError(f"there is no database file {str(path)!r}")
    address = URL.create("sqlite+aiosqlite", database=str(path))
    # FULL: a power cut must not lose the append that the relay has prepared.
    return configure_sqlite(create_async_engine(address), synchronous="FULL")
