"""The caller, as dependencies and guards, so that a route's signature shows what it needs."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection
from starlette.types import Scope

from headwater.backend.auth.origin import SAFE_METHODS, check_origin
from headwater.backend.auth.principal import Principal
from headwater.backend.problems import not_found, unauthorized
from headwater.backend.state import backend_of
from headwater.web._guards import decide_again
from headwater.web.fastapi import expires, guard, identify
from headwater.web.problems import Problem

COOKIE = "session"


class _Cookie(APIKeyCookie):
    """Reads the session cookie. It is nearly always the only one, which needs no parser."""

    async def __call__(self, request: HTTPConnection) -> str | None:
        found = [value for name, value in request.scope["headers"] if name == b"cookie"]
        if not found:
            return None
        if len(found) == 1 and b";" not in found[0] and b'"' not in found[0]:
            name, _, value = found[0].decode("latin-1").partition("=")
            return value.strip() or None if name.strip() == COOKIE else None
        return await super().__call__(request)


class _Bearer(HTTPBearer):
    """Reads an API key, if there is one."""

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        for name, _ in request.scope["headers"]:
            if name == b"authorization":
                return await super().__call__(request)
        return None


session_cookie = _Cookie(
    name=COOKIE,
    scheme_name="session",
    auto_error=False,
    description="Set by POST /api/auth/login. HttpOnly.",
)
bearer_key = _Bearer(
    scheme_name="api_key",
    auto_error=False,
    description="A user's key (`hw_…`) or a satellite's (`hws_…`).",
)


async def authenticate(request: Request) -> Principal:
    """The caller. Raises 401, and 403 when a cookie's request comes from another site.

    A request looks it up once, however many guards and handlers need it. It has no dependencies,
    because FastAPI would walk through them for each guard and handler.
    """
    known = request.scope.get("state", {}).get("principal")
    if isinstance(known, Principal):
        return known
    backend = backend_of(request)
    found: Principal | None = None
    # A browser sends its cookie always, and a program sends a key on purpose. So the key counts.
    if bearer := await bearer_key(request):
        found = await backend.credentials.of_key(bearer.credentials)
    elif cookie := await session_cookie(request):
        found = await backend.credentials.of_session(cookie)
    if found is None:
        raise unauthorized()
    if found.via == "session":
        check_origin(request, backend.settings.allowed_origins)
    if request.method not in SAFE_METHODS:
        backend.writes.check(found.subject)
    identify(request, found.subject)
    if found.expires_at is not None:
        expires(request, found.expires_at)
    request.state.principal = found
    return found


def authenticate_again(scope: Scope) -> None:
    """Let all that was decided of a request's caller be decided anew."""
    scope.get("state", {}).pop("principal", None)
    decide_again(scope)


async def current_user(request: Request) -> Principal:
    """The calling user. Raises 403 for a satellite."""
    principal = await authenticate(request)
    if principal.kind != "user":
        raise Problem(403, "This is for users; a satellite's key cannot be used here.")
    return principal


CurrentUser = Annotated[Principal, Depends(current_user)]


async def current_satellite(request: Request, satellite_id: str) -> Principal:
    """The satellite of the path, if it is the caller."""
    principal = await authenticate(request)
    if principal.kind != "satellite":
        raise Problem(403, "Only the satellite itself may report: send its own key.")
    if principal.id != satellite_id:
        raise not_found("satellite", satellite_id)
    return principal


CurrentSatellite = Annotated[Principal, Depends(current_satellite)]


# A guard and a handler must not depend on one function, so each has its own. FastAPI spends time on
# each dependency of a dependency, so guards call `authenticate`. Every protected route has one of
# the next three, whose parameters show in OpenAPI how to sign in.
Cookie = Annotated[str | None, Security(session_cookie)]
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(bearer_key)]


@guard
async def signed_in(request: Request, _cookie: Cookie, _bearer: Bearer) -> None:
    await current_user(request)


async def _must_be_satellite(
    request: Request, _cookie: Cookie, _bearer: Bearer, satellite_id: str
) -> None:
    await current_satellite(request, satellite_id)


reports_itself: Any = guard(_must_be_satellite, "satellite.report")


@cache
def user_with(permission: str) -> Any:
    """The guard of a feed: the caller is a user with this permission."""

    async def permitted(request: Request, _cookie: Cookie, _bearer: Bearer) -> None:
        user = await current_user(request)
        if not user.may(permission):
            raise _missing(permission)

    return guard(permitted, permission)


@cache
def requires(permission: str) -> Any:
    """The guard of a permission, beside ``signed_in``: 403 without it.

    Where a team role may give it too, the service decides for the team in question.
    """

    async def permitted(request: Request) -> None:
        principal = await authenticate(request)
        if not principal.may_somewhere(permission):
            raise _missing(permission)

    return guard(permitted, permission)


@cache
def requires_in_team(permission: str) -> Any:
    """The guard of a permission in the team of the path; 404 if the caller may not know it."""

    async def permitted(request: Request, team_id: str) -> None:
        principal = await authenticate(request)
        await must_know_team(request, principal, team_id)
        if not principal.may_in(permission, team_id):
            raise _missing(permission)

    return guard(permitted, permission)


async def must_know_team(request: Request, principal: Principal, team_id: str) -> None:
    """Raise 404 unless the team exists and the caller may know of it."""
    if team_id in principal.teams:
        return
    if not principal.knows_team(team_id) or not await backend_of(request).teams.exists(team_id):
        raise not_found("team", team_id)


@guard
async def team_of_path(request: Request, team_id: str) -> None:
    await must_know_team(request, await authenticate(request), team_id)


@guard
async def team_of_query(request: Request) -> None:
    principal = await authenticate(request)
    # Validation, which comes later, reports a parameter that is missing.
    for team_id in request.query_params.getlist("team_id"):
        await must_know_team(request, principal, team_id)


@guard
async def satellite_of_path(request: Request, satellite_id: str) -> None:
    principal = await authenticate(request)
    satellite = await backend_of(request).satellites.find(satellite_id)
    if satellite is None or not principal.knows_satellite_of(satellite.team_id):
        raise not_found("satellite", satellite_id)


def _missing(permission: str) -> Exception:
    return Problem(403, f"The permission {permission} is missing.")
