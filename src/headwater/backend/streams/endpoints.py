"""``/api/streams`` and ``/api/tails``: who follows what, for administrators."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from headwater.backend.auth.dependencies import requires, signed_in
from headwater.backend.problems import not_found
from headwater.backend.schemas import Limit, PathId
from headwater.backend.state import BackendState
from headwater.backend.streams.schemas import OpenStream, StreamList, Tail, TailList
from headwater.web.fastapi import GuardedRoute, LiveRouter, StreamInfo

__all__ = ["router"]

router = APIRouter(tags=["streams"], route_class=GuardedRoute, dependencies=[signed_in])


async def _live(request: Request) -> LiveRouter:
    live: LiveRouter = request.app.state.live
    return live


AfterStream = Annotated[
    int, Query(ge=0, description="The `id` of the last stream of the page before this one.")
]
Live = Annotated[LiveRouter, Depends(_live)]


@router.get("/streams", dependencies=[requires("streams.list")])
async def list_streams(
    live: Live, backend: BackendState, limit: Limit = 100, after: AfterStream = 0
) -> StreamList:
    """The open streams of the process that answers, oldest first."""
    # The one before may have ended meanwhile.
    found = [each for each in live.streams() if int(each.id) > after]
    shown = found[:limit]
    emails = await backend.users.emails(
        {user for each in shown if (user := _user_of(each)) is not None}
    )
    stats = live.stats
    return StreamList(
        worker=os.getpid(),
        open=stats.open,
        dropped=stats.stalled + stats.overrun,
        streams=[_shown(each, emails) for each in shown],
        has_more=len(found) > limit,
    )


@router.delete(
    "/streams/{stream_id}",
    status_code=204,
    response_class=Response,
    dependencies=[requires("streams.close")],
)
async def close_stream(stream_id: PathId, live: Live) -> None:
    """End one open stream of the process that answers. Its client comes back after seconds."""
    if not live.close_stream(stream_id):
        raise not_found("open stream of this process", stream_id)


@router.get("/tails", dependencies=[requires("streams.list")])
async def list_tails(live: Live) -> TailList:
    """What the process that answers reads for its streams, with what came of it."""
    return TailList(worker=os.getpid(), tails=[Tail.model_validate(each) for each in live.tails()])


def _user_of(stream: StreamInfo) -> str | None:
    users = (each.removeprefix("user:") for each in stream.subjects if each.startswith("user:"))
    return next(users, None)


def _shown(stream: StreamInfo, emails: Mapping[str, str]) -> OpenStream:
    user = _user_of(stream)
    return OpenStream(
        id=stream.id,
        opened_at=stream.opened_at,
        user_id=user,
        email=None if user is None else emails.get(user),
        client=stream.client,
        address=stream.address,
        feed=stream.feed,
        position=stream.position,
        lag=stream.lag,
        waiting_bytes=stream.waiting_bytes,
        sent_bytes=stream.sent_bytes,
    )
