"""``headwater demo``: live data a minute after cloning. It leaves no files behind."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headwater.cli.options import settings_with

if TYPE_CHECKING:
    from headwater.backend.settings import Settings

_WORDS = """
Headwater demo: {url}

  Sign in    demo@example.com / demo      follows all feeds
             admin@example.com / admin    and manages users, teams and satellites

  Or curl    curl -c jar -d '{{"email":"demo@example.com","password":"demo"}}' \\
               -H 'Content-Type: application/json' {url}/api/auth/login
             curl -b jar -N {url}/api/logs/stream

Ctrl-C ends it, and removes its data, which is in a temporary folder.
"""


def demo(
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8000,
) -> None:
    """Try Headwater: a throw-away backend with users, teams, satellites and live activity."""
    from headwater.backend.demo.restart import demo_folder

    with demo_folder() as (folder, again):
        settings = settings_with(
            host="127.0.0.1",
            port=port,
            workers=1,
            database=f"sqlite:///{folder / 'demo.db'}",
            event_log="",
            password_min_length=1,
            # Everybody knows these passwords, so their hashes may be cheap.
            argon2_time_cost=1,
            argon2_memory_kib=8,
            shutdown_seconds=2,
            log_level="warning",
        )
        _run(settings, folder, again=again)


def _run(settings: Settings, folder: Path, *, again: bool) -> None:
    from headwater.backend.app import create_app
    from headwater.backend.database import Address
    from headwater.backend.demo import answers
    from headwater.backend.demo.cast import ADMIN, DEMO, Cast, assemble, find
    from headwater.backend.demo.history import write_history
    from headwater.backend.demo.present import Present
    from headwater.backend.demo.restart import restart_router
    from headwater.backend.demo.walk import Walk
    from headwater.backend.logging import set_up_logging
    from headwater.backend.schema import migrate
    from headwater.backend.server import address_of, bind, build_server, greet
    from headwater.backend.state import Backend, open_backend
    from headwater.eventlog import open_log
    from headwater.runs import Runs

    async def prepare() -> tuple[Cast, dict[str, Walk]]:
        draw = random.Random()
        async with open_backend(settings) as backend:
            cast = await (find if again else assemble)(backend)
            walks = {
                satellite_id: Walk(draw, hour)
                for satellite_id, hour in zip(cast.works_for, (14, 20, 5), strict=True)
            }
            if not again:
                await write_history(backend, cast, walks)
        return cast, walks

    async def go_on(backend: Backend) -> None:
        backend.accounts = (DEMO, ADMIN)
        await Present(backend, cast, walks).run()

    # Before anything is created: a port in use is the usual failure.
    listener = bind(settings.host, settings.port)
    set_up_logging(settings.log_level, "text")
    migrate(Address.parse(settings.database))
    cast, walks = asyncio.run(prepare())
    # A file of its own: the answers of a killed server are lost soon after the next one starts.
    runs = Runs(open_log(f"sqlite:///{folder / 'runs.db'}"), lease=3)
    app = create_app(settings, companion=go_on, declare=partial(answers.declare, runs=runs))
    app.include_router(restart_router(folder, listener), prefix="/api")
    server = build_server(settings, app)
    if not again:
        server.on_started = partial(greet, _WORDS.format(url=address_of(listener)))
    server.run(sockets=[listener])
