"""The application: ``create_app(settings)``.

It opens its resources when it starts, and closes them when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from headwater.backend import health
from headwater.backend.access import subject_of
from headwater.backend.activity import endpoints as activity
from headwater.backend.auth import endpoints as auth
from headwater.backend.auth.dependencies import COOKIE, user_with
from headwater.backend.cleanup import Cleanup
from headwater.backend.logs import endpoints as logs
from headwater.backend.metrics import Measures
from headwater.backend.middleware import (
    AllowedHosts,
    AllowedOrigins,
    BodyLimit,
    Envelope,
    OwnCookies,
)
from headwater.backend.notifications import endpoints as notifications
from headwater.backend.pages import Pages
from headwater.backend.satellites import endpoints as satellites
from headwater.backend.settings import Settings
from headwater.backend.state import Backend, open_backend
from headwater.backend.streams import endpoints as streams
from headwater.backend.streams.service import Streams
from headwater.backend.teams import endpoints as teams
from headwater.backend.users import endpoints as users
from headwater.web.fastapi import LiveRouter, StreamLimits

# Lower limits, in bytes, for bodies that anyone may send without signing in.
_SMALL_BODIES = {"/api/auth/login": 16 * 1024}
_FEEDS = (notifications, logs, satellites, activity, teams)
# Routes are tried in this order, so those with the most requests come first.
_ROUTERS = (satellites, activity, logs, notifications, auth, users, teams, streams)


def create_app(
    settings: Settings | None = None,
    *,
    companion: Callable[[Backend], Coroutine[Any, Any, None]] | None = None,
    declare: Callable[[LiveRouter], None] | None = None,
) -> FastAPI:
    """The application. Its database must have been migrated before it starts.

    Arguments:
        settings: read from the environment by default.
        companion: runs beside the application, and is cancelled when it ends.
        declare: declares further live routes, under ``/api``.
    """
    settings = settings or Settings()
    live = LiveRouter(
        heartbeat=settings.heartbeat_seconds,
        requires=user_with,
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
        async with AsyncExitStack() as stack:
            backend = await stack.enter_async_context(open_backend(app.state.settings))
            app.state.backend = backend
            access_changes = backend.tables.access_changes.where()
            stack.callback(live.follow_rechecks(access_changes, subject_of))
            app.state.streams = open_streams = Streams(live, backend.log)
            open_streams.siblings.start()
            stack.push_async_callback(open_streams.siblings.stop)
            await stack.enter_async_context(_beside(Cleanup(backend).run()))
            if companion is not None:
                await stack.enter_async_context(_beside(companion(backend)))
            yield

    app = FastAPI(
        title="Headwater",
        version=version("headwater"),
        description="Each feed is a pair: a REST endpoint and, with `/stream` appended, a "
        "Server-Sent Events stream that shows the same items and resumes after any disconnect.",
        lifespan=lifespan,
        # A redirect would name the host of the request, which an attacker may have chosen.
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
    # No router around these: each router in between makes every request slower.
    for domain in _ROUTERS:
        app.include_router(domain.router, prefix="/api")
    app.include_router(health.router)
    app.router.routes += [Pages("console"), Pages("reference", "/docs")]
    # A request passes first through the middleware that was added last.
    app.add_middleware(OwnCookies, names=(COOKIE, auth.DEVICE))
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body_bytes,
        less=_SMALL_BODIES,
        writes=lambda: app.state.backend.writes,
    )
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
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine beside the block, and cancel it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
