"""``/api/auth``: signing in and out."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from headwater.backend.auth.dependencies import COOKIE, CurrentUser, signed_in
from headwater.backend.auth.origin import check_origin
from headwater.backend.auth.places import KEPT
from headwater.backend.auth.schemas import Account, Login, Session
from headwater.backend.schemas import NO_CONTENT
from headwater.backend.state import BackendState, backend_of
from headwater.backend.users.schemas import Me
from headwater.web._addresses import network_of
from headwater.web.fastapi import GuardedRoute, Problem, guard

# The cookie of a device that signed in before. The device has tries of its own.
DEVICE = "device"

router = APIRouter(prefix="/auth", tags=["auth"], route_class=GuardedRoute)


async def _may_try(request: Request) -> None:
    backend, address = backend_of(request), _address(request)
    # Another site must not sign its visitors in as somebody else.
    check_origin(request, backend.settings.allowed_origins)
    # Before the body is read. A device's own tries can be checked only with the e-mail address.
    backend.writes.check(f"network:{network_of(address)}")
    if DEVICE not in request.cookies:
        backend.sign_ins.check_network(address)


@router.get("/session")
async def session(request: Request, backend: BackendState) -> Session:
    """The user of the session cookie. Without a valid one, `user` is null."""
    cookie = request.cookies.get(COOKIE)
    found = await backend.credentials.of_session(cookie) if cookie else None
    accounts = [Account(email=email, password=password) for email, password in backend.accounts]
    return Session(user=Me.of(found) if found else None, accounts=accounts)


@router.post("/login", dependencies=[guard(_may_try)])
async def login(body: Login, request: Request, response: Response, backend: BackendState) -> Me:
    """Sign in. The session is a cookie that scripts cannot read.

    A wrong address and a wrong password give the same 401 in the same time. After many wrong ones
    the answer is 429.
    """
    signed_in = await backend.sign_ins.sign_in(
        body.email, body.password, _address(request), request.cookies.get(DEVICE)
    )
    cookie = partial(
        response.set_cookie, secure=_is_secure(request, backend), httponly=True, samesite="lax"
    )
    cookie(DEVICE, signed_in.device, max_age=int(KEPT.total_seconds()), path="/api/auth")
    lifetime = backend.settings.session_lifetime
    cookie(COOKIE, signed_in.token, max_age=int(lifetime.total_seconds()))
    return Me.of(signed_in.user)


@router.post("/logout", **NO_CONTENT, dependencies=[signed_in])
async def logout(
    user: CurrentUser, request: Request, response: Response, backend: BackendState
) -> None:
    """Sign out: end this session. All its open streams end at once."""
    if user.via != "session":
        raise Problem(409, "An API key has no session to end; delete the key instead.")
    await backend.sign_ins.sign_out(user)
    secure = _is_secure(request, backend)
    response.delete_cookie(COOKIE, secure=secure, httponly=True, samesite="lax")


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None


def _is_secure(request: Request, backend: BackendState) -> bool:
    return backend.settings.secure_cookies or request.url.scheme == "https"
