"""``/api/auth``: signing in and out."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from headwater.backend.auth.dependencies import COOKIE, CurrentUser, signed_in
from headwater.backend.auth.origin import check_origin
from headwater.backend.auth.schemas import Login
from headwater.backend.roles import permissions_of
from headwater.backend.state import BackendState, backend_of
from headwater.backend.users.schemas import Me
from headwater.web.fastapi import GuardedRoute, Problem, guard

__all__ = ["router"]

router = APIRouter(prefix="/auth", tags=["auth"], route_class=GuardedRoute)


async def _from_own_page(request: Request) -> None:
    # Another site must not sign its visitors in as somebody else.
    check_origin(request, backend_of(request).settings.allowed_origins)


@router.post("/login", dependencies=[guard(_from_own_page)])
async def login(body: Login, request: Request, response: Response, backend: BackendState) -> Me:
    """Sign in. The session is a cookie that scripts cannot read.

    A wrong address and a wrong password give the same 401 in the same time. Many wrong ones get
    429.
    """
    address = request.client.host if request.client else None
    signed_in = await backend.sign_ins.sign_in(body.email, body.password, address)
    response.set_cookie(
        COOKIE,
        signed_in.token,
        max_age=int(backend.settings.session_lifetime.total_seconds()),
        path="/",
        secure=_is_secure(request, backend),
        httponly=True,
        samesite="lax",
    )
    return Me(
        id=signed_in.user_id,
        email=signed_in.email,
        role=signed_in.role,
        permissions=sorted(permissions_of(signed_in.role)),
    )


@router.post("/logout", status_code=204, response_class=Response, dependencies=[signed_in])
async def logout(
    user: CurrentUser, request: Request, response: Response, backend: BackendState
) -> None:
    """Sign out: end this session. All its open streams end at once."""
    if user.via != "session":
        raise Problem(409, "An API key has no session to end; delete the key instead.")
    await backend.sign_ins.sign_out(user)
    response.delete_cookie(
        COOKIE, path="/", secure=_is_secure(request, backend), httponly=True, samesite="lax"
    )


def _is_secure(request: Request, backend: BackendState) -> bool:
    return backend.settings.secure_cookies or request.url.scheme == "https"
