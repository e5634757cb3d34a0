"""The ``Idempotency-Key`` header of a request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Request

from headwater.backend.auth.dependencies import authenticate
from headwater.backend.auth.principal import Principal
from headwater.backend.idempotency.service import RequestKey


async def _request_key(
    request: Request,
    principal: Annotated[Principal, Depends(authenticate)],
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=200,
            pattern=r"^[!-~]+$",
            description="Chosen by the caller, such as a UUID. For a day, the same key with the "
            "same body is answered as the first time, and nothing is done again.",
        ),
    ] = None,
) -> RequestKey | None:
    if key is None:
        return None
    route = (request.method, request.url.path)
    return RequestKey.of(await request.body(), principal.subject, *route, key)


IdempotencyKey = Annotated[RequestKey | None, Depends(_request_key)]
