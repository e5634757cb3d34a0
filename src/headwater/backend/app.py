"""The application: ``create_app(settings)``.

It opens its resources when it starts, and closes them when it ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from headwater.backend import health
from headwater.backend.access import subject_of
from headwater.backend.activity import endpoints as activity
from headwater.backend.activity.service import Activities
from headwater.backend.auth import endpoints as auth
from headwater.backend.auth.dependencies import requires
from headwater.backend.auth.passwords import Passwords
from headwater.backend.auth.repository import Credentials
from headwater.backend.auth.service import SignIns
from headwater.backend.cleanup import Cleanup
from headwater.backend.database import Address, Database
from headwater.backend.idempotency.service import Repeats
from headwater.backend.logs import endpoints as logs
from headwater.backend.logs.service import Logs
from headwater.backend.metrics import Measures
from headwater.backend.middleware import AllowedHosts, AllowedOrigins, BodyLimit, Envelope
from headwater.backend.notifications import endpoints as notifications
from headwater.backend.notifications.service import Notifications
from headwater.backend.pages import console_pages, reference_pages
from headwater.backend.probes import Probes
from headwater.backend.satellites import endpoints as satellites
from headwater.backend.satellites.board import Board
from headwater.backend.satellites.service import Satellites
from headwater.backend.settings import Settings
from headwater.backend.state import Backend, Tables
from headwater.backend.streams import endpoints as streams
from headwater.backend.streams.service import Streams
from headwater.backend.teams import endpoints as teams
from headwater.backend.teams.service import Teams
from headwater.backend.throttle import Writes
from headwater.backend.users import endpoints as users
from headwater.backend.users.service import Users
from headwater.errors import SourceUnavailableError
from headwater.eventlog import EventLog, open_log
from headwater.eventlog.sql import SqlLog
from headwater.web.fastapi import LiveRouter, StreamLimits

__all__ = ["create_app", "open_backend"]

_log = logging.getLogger(__name__)

# Bodies that anyone may send, signed in or not.
_SMALL_BODIES = {"/api/auth/login": 16 * 1024}
_FEEDS = (notifications, logs, satellites, activity, teams)
# Routes are tried in this order. Satellites and programs send most of the requests.
_ROUTERS = (satellites, activity, logs, notifications, auth, users, teams, streams)


def create_app(
    settings: Settings | None = None,
    *,
    companion: Callable[[Backend], Coroutine[Any, Any, None]] | None = None,
    declare: Callable[[LiveRouter], None] | None = None,
) -> FastAPI:
    """The application. Its database must have been migrated before it starts.

    Arguments:
        settings: from the environment unless they are given.
        companion: runs beside it in the same process, and is cancelled when it ends.
        declare: adds routes of its own under ``/api``.
    """
    settings = settings or Settings()
    live = LiveRouter(
        heartbeat=settings.heartbeat_seconds,
        requires=requires,
        recheck=settings.recheck_seconds,
        io_uring=settings.io_uring,
        limits=StreamLimits(
            per_caller=settings.streams_per_user,
            per_address=settings.streams_per_address,
            total=settings.max_streams,
            page_bytes=settings.max_page_bytes,
            unread_bytes=settings.max_unread_bytes,
            proxies=settings.proxy_addresses,
        ),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_backend(app.state.settings) as backend:
            app.state.backend = backend
            app.state.probes = probes = Probes(backend.database, backend.log)
            unfollow = live.follow_rechecks(backend.tables.access_changes.where(), subject_of)
            app.state.streams = open_streams = Streams(live, backend.log)
            open_streams.siblings.start()
            cleanup = Cleanup(backend)
            cleanup.start()
            beside = asyncio.ensure_future(companion(backend)) if companion else None
            try:
                yield
            finally:
                if beside is not None:
                    beside.cancel()
                    await asyncio.wait([beside])
                await open_streams.siblings.stop()
                probes.close()
                await cleanup.stop()
                unfollow()

    app = FastAPI(
        title="Headwater",
        version=version("headwater"),
        description="Each feed is a pair: a REST endpoint and, with `/stream` appended, a "
        "Server-Sent Events stream that shows the same items and resumes after any disconnect.",
        lifespan=lifespan,
        # A redirect would name the host that the request names, whoever sent it.
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.live = live
    app.state.measures = Measures(live, lambda: app.state.backend)
    for feeds in _FEEDS:
        feeds.declare(live)
    if declare is not None:
        declare(live)
    app.include_router(live, prefix="/api")
    live.install(app, problems="application", openapi="3.2")
    # Each included router costs a request one more search, so there is no router around these.
    for domain in _ROUTERS:
        app.include_router(domain.router, prefix="/api")
    app.include_router(health.router)
    app.router.routes.extend([console_pages(), reference_pages()])
    # The last that is added is the first that a request meets.
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, less=_SMALL_BODIES)
    if settings.allowed_origins:
        app.add_middleware(
            AllowedOrigins,
            allow_origins=list(settings.allowed_origins),
            allow_credentials=True,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
                "If-None-Match",
            ],
            expose_headers=["ETag", "Retry-After"],
        )
    if settings.allowed_hosts:
        app.add_middleware(AllowedHosts, hosts=settings.allowed_hosts)
    app.add_middleware(
        Envelope,
        measures=app.state.measures,
        routes=app.router.routes,
        access_log=settings.access_log,
    )
    return app


@asynccontextmanager
async def open_backend(settings: Settings) -> AsyncIterator[Backend]:
    """Every resource and service, without HTTP. The database must have been migrated."""
    async with AsyncExitStack() as stack:
        address = Address.parse(settings.database)
        database = Database(address)
        stack.push_async_callback(database.close)
        log = _event_log(settings, database)
        stack.push_async_callback(log.close)
        try:
            await log.start()
        except SourceUnavailableError as error:
            # Everything else can serve meanwhile. /readyz reports what is missing.
            _log.warning("%s", error)
        passwords = Passwords(
            time_cost=settings.argon2_time_cost,
            memory_kib=settings.argon2_memory_kib,
            concurrency=settings.argon2_concurrency,
        )
        stack.callback(passwords.close)
        repeats = Repeats(database)
        tables = Tables(database)
        yield Backend(
            settings=settings,
            database=database,
            log=log,
            tables=tables,
            passwords=passwords,
            credentials=Credentials(database),
            sign_ins=SignIns(
                database,
                passwords,
                lifetime=settings.session_lifetime,
                per_email=settings.login_tries_per_email,
                per_address=settings.login_tries_per_address,
            ),
            writes=Writes(settings.writes_per_second),
            users=Users(database, passwords, settings.password_min_length),
            teams=Teams(database),
            notifications=Notifications(database, repeats),
            logs=Logs(database, repeats),
            satellites=Satellites(database, log, repeats),
            activities=Activities(database),
            repeats=repeats,
            board=Board(tables.satellites, log),
        )


def _event_log(settings: Settings, database: Database) -> EventLog:
    """The log; in the database's own file it shares its connections."""
    if settings.event_log_url == settings.database:
        return SqlLog(database.engine)
    return open_log(settings.event_log_url)
