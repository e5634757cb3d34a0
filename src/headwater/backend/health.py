"""``/healthz`` and ``/readyz``: whether the process is alive, and whether it can serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy import text

from headwater.backend.state import Backend, BackendState
from headwater.errors import SourceUnavailableError

__all__ = ["router"]

router = APIRouter(tags=["operation"])

# Probes come every few seconds. A dependency slower than this serves no request.
PATIENCE = 2.0


class Alive(BaseModel):
    status: str = "ok"


class Check(BaseModel):
    status: str
    detail: str | None = None


class Readiness(BaseModel):
    status: str
    checks: dict[str, Check]


@router.get("/healthz")
async def alive() -> Alive:
    """The process runs. Its dependencies are not checked."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
async def ready(backend: BackendState, request: Request, response: Response) -> Readiness:
    """Each dependency: 200 when all are up, 503 when one is down or this process is ending."""
    database, event_log = await asyncio.gather(
        _check(lambda: _database(backend)), _check(lambda: _event_log(backend))
    )
    checks = {"database": database, "event_log": event_log}
    if request.app.state.live.hub.streams.draining:
        checks["server"] = Check(status="down", detail="shutting down")
    up = all(check.status == "up" for check in checks.values())
    if not up:
        response.status_code = 503
    response.headers["cache-control"] = "no-store"
    return Readiness(status="ready" if up else "not ready", checks=checks)


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters of this process, for Prometheus."""
    response: Response = request.app.state.measures.render()
    return response


async def _check(ask: Callable[[], Awaitable[None]]) -> Check:
    try:
        async with asyncio.timeout(PATIENCE):
            await ask()
    except TimeoutError:
        return Check(status="down", detail=f"no answer within {PATIENCE:g} s")
    except SourceUnavailableError as error:
        return Check(status="down", detail=error.detail)
    return Check(status="up")


async def _database(backend: Backend) -> None:
    # SQLite continues with a file that was deleted or replaced, and all writes to it are lost.
    if not backend.database.is_in_place():
        raise SourceUnavailableError("The database", "its file was moved or replaced")
    async with backend.database.read() as session:
        await session.execute(text("SELECT version_num FROM alembic_version"))


async def _event_log(backend: Backend) -> None:
    await backend.log.bounds("readyz")
