"""Guards: dependencies that decide before a request's body is read and before it is validated.

FastAPI solves the dependencies of a route before it reports what is wrong with its parameters, so
a refusing guard comes first. But a body is read before any dependency. A route that
takes one therefore asks its guards first, by a route of their own, and FastAPI after that.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import fastapi.routing
from fastapi import BackgroundTasks, Request, params
from fastapi.routing import APIRoute
from fastapi.security import (
    APIKeyCookie,
    APIKeyHeader,
    APIKeyQuery,
    HTTPBasic,
    HTTPBearer,
    HTTPDigest,
    OAuth2,
    OpenIdConnect,
)
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from headwater.errors import DeclarationError
from headwater.web._plan import Plan
from headwater.web._remembered_request import own_stacks, stacks_of
from headwater.web._user_functions import (
    as_coroutine,
    asked_for,
    is_generator_function,
    parameters_of,
    readable_parameters,
    taking,
    unaliased,
)

# A permission, a guard, or several of these.
Requirement = str | params.Depends | Sequence[str | params.Depends] | None

_DECIDED = "headwater.decided"
_SCHEMES = (
    *(APIKeyCookie, APIKeyHeader, APIKeyQuery),
    *(HTTPBasic, HTTPBearer, HTTPDigest, OAuth2, OpenIdConnect),
)
# Not documented by FastAPI.
BODY_FIELD = "body_field"


class Guard(params.Security):
    """A dependency that decides before the body is read and parameters are validated.

    Attributes:
        permission: what it asks for, as documentation and ``headwater check`` show it.
    """

    permission: str | None = None


def guard(call: Callable[..., Any], permission: str | None = None) -> Any:
    """Like ``Depends(call)``, for ``dependencies=[...]``, but decided before the body is read.

    ``call`` raises Problem or HTTPException with 401, 403 or 404. The routes must be of a
    LiveRouter, or of an APIRouter with ``route_class=GuardedRoute``. On a route with a body
    ``call`` runs once unless the handler depends on it too, and what it depends on may run twice.
    """
    if not callable(call):
        raise DeclarationError(
            f"guard({call!r}): write a function, such as guard(check), without Depends(...)"
        )
    made = guard_of(params.Depends(call))
    # Depends is a frozen dataclass in newer versions.
    object.__setattr__(made, "permission", permission)
    return made


def declared_dependencies(
    requires: Requirement,
    dependencies: Sequence[params.Depends],
    make: Callable[[str], Any] | None,
    path: str,
) -> list[params.Depends]:
    """The guards that ``requires=`` asks for, then ``dependencies=``. Raises DeclarationError.

    Arguments:
        make: makes the guard of a permission.
    """
    check_dependencies(f"feed {path!r}", dependencies)
    return [*_required(requires, make, path), *dependencies]


def check_dependencies(where: str, given: Any) -> None:
    """Raise DeclarationError unless it is a list of dependencies."""
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(each, params.Depends) for each in given
    ):
        raise DeclarationError(
            f"{where}: dependencies={given!r}: write a list of Depends(...) or guard(...)"
        )


def _required(
    requires: Requirement, make: Callable[[str], Any] | None, path: str
) -> list[params.Depends]:
    if requires is None:
        return []
    wanted = [requires] if isinstance(requires, (str, params.Depends)) else requires
    if not isinstance(wanted, (list, tuple, set, frozenset)) or not wanted or "" in wanted:
        raise DeclarationError(
            f"feed {path!r}: requires={requires!r}: write a permission, a guard or a list of "
            "these; leave requires= out for a feed that everybody may see"
        )
    return [_guard_from(each, make, path) for each in wanted]


def _guard_from(
    each: str | params.Depends, make: Callable[[str], Any] | None, path: str
) -> params.Depends:
    if isinstance(each, str):
        if make is None:
            raise DeclarationError(
                f"feed {path!r}: requires={each!r} needs LiveRouter(requires=...), which "
                "makes a guard of a permission"
            )
        found = make(each)
        if not isinstance(found, params.Depends):
            raise DeclarationError(
                f"feed {path!r}: LiveRouter(requires=...) made {found!r} of {each!r}: return "
                "guard(function) or Depends(function)"
            )
    elif isinstance(each, params.Depends):
        found = each
    else:
        raise DeclarationError(
            f"feed {path!r}: requires={each!r}: write a permission, a guard or a list of these"
        )
    if found.dependency is None:
        raise DeclarationError(f"feed {path!r}: requires=Depends() names no dependency")
    return found if isinstance(found, Guard) else guard_of(found)


def guard_of(depends: params.Depends) -> Guard:
    """The guard of a dependency, with its scopes and whatever else it says."""
    call = depends.dependency
    assert call is not None
    # A class, and what holds something open by yield, are not wrapped. Nor is a security scheme,
    # which FastAPI describes in OpenAPI by its class.
    if not (is_generator_function(call) or inspect.isclass(call) or isinstance(call, _SCHEMES)):
        call = Once(call)
    return Guard(**{**vars(depends), "dependency": call})


class Once:
    """A guard's function, called once for a request however often it is solved.

    It is equal to the function, so that ``app.dependency_overrides`` finds it by that.

    Attributes:
        call: the function.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call
        self._run = as_coroutine(call)
        own = parameters_of(call, getattr(call, "__qualname__", repr(call)))
        self._response = taking(own, Response)
        self._tasks = taking(own, BackgroundTasks)
        # This kind is a WebSocket's, too.
        self._takes_request = bool(taking(own, HTTPConnection))
        self._request = asked_for(own, HTTPConnection)
        self.__signature__ = inspect.Signature(list(own.values()))
        self.__name__ = getattr(call, "__name__", type(call).__name__)

    async def __call__(self, **values: Any) -> Any:
        request = values[self._request] if self._takes_request else values.pop(self._request)
        decided: dict[int, _Decided] = request.scope.setdefault(_DECIDED, {})
        response, tasks = values.get(self._response), values.get(self._tasks)
        known = decided.get(id(self))
        if known is not None:
            known.repeat(response, tasks)
            return known.value
        before = [] if response is None else list(response.raw_headers)
        own_tasks = None
        if tasks is not None:
            values[self._tasks] = own_tasks = BackgroundTasks()
            tasks.add_task(own_tasks)
        value = await self._run(**values)
        after = [] if response is None else response.raw_headers
        decided[id(self)] = _Decided(
            self.call,
            value,
            added=[pair for pair in after if pair not in before],
            removed=[pair for pair in before if pair not in after],
            status=None if response is None else response.status_code,
            tasks=tasks,
            own_tasks=own_tasks,
        )
        return value

    def __eq__(self, other: object) -> bool:
        return self is other or self.call == other

    def __hash__(self) -> int:
        return hash(self.call)


def decide_again(scope: Scope, calls: Collection[Any] | None = None) -> None:
    """Let the guards of a request decide anew: those with these functions, or all."""
    decided: dict[int, _Decided] = scope.pop(_DECIDED, {})
    if calls is not None:
        scope[_DECIDED] = {k: each for k, each in decided.items() if each.call not in calls}


def _dependencies_of(call: Any) -> list[Any]:
    """The functions that a handler depends on, and those that they depend on.

    What a guard returns to a handler must come of the dependencies that the handler has, such as
    its session of the database.
    """
    found = [call]
    for each in found:
        for parameter in readable_parameters(each):
            annotation, notes = unaliased(parameter.annotation)
            for mark in (parameter.default, *notes):
                if isinstance(mark, params.Depends):
                    needed = mark.dependency or annotation
                    found += [needed] if needed not in found else []
    return found


class _Decided(NamedTuple):
    """What a guard came to, and what it did to the response: both hold for the whole request."""

    call: Any
    value: Any
    added: list[tuple[bytes, bytes]]
    removed: list[tuple[bytes, bytes]]
    status: int | None
    tasks: BackgroundTasks | None
    own_tasks: Any

    def repeat(self, response: Response | None, tasks: BackgroundTasks | None) -> None:
        """Do the same to the response of another run of the dependencies."""
        if response is not None:
            kept = [p for p in response.raw_headers if p not in self.removed + self.added]
            response.raw_headers[:] = kept + self.added
            response.status_code = self.status or response.status_code
        if tasks is not None and tasks is not self.tasks:
            tasks.add_task(self.own_tasks)


class GuardedRoute(APIRoute):
    """A route whose guards decide before its body is read."""

    @cached_property
    def _ending(self) -> str:
        """What each path of this route ends with; empty behind a parameter."""
        return self.path.rpartition("}")[2]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As ``Route``, which compares the path by a regular expression, and routes are many."""
        if not scope["path"].endswith(self._ending):
            return Match.NONE, {}
        return super().matches(scope)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        if not takes_body(self):
            return handler
        taken = _dependencies_of(self.endpoint)

        async def guarded(request: Request) -> Response:
            guards = guards_of(self, request)
            if guards is not None:
                async with own_stacks(request.scope, stacks_of(request.scope)):
                    await guards.get_route_handler()(request)
                decide_again(request.scope, taken)
            return await handler(request)

        return guarded


def takes_body(route: APIRoute) -> bool:
    """Whether FastAPI reads a body for this route; True where it does not say.

    The name is not documented. Without it the guards of every route are asked first, by a
    route of their own, which takes longer.
    """
    return getattr(route, BODY_FIELD, True) is not None


# By application: for each route, the route of its guards at each place where it was included.
_places: weakref.WeakKeyDictionary[Any, dict[int, list[APIRoute]]] = weakref.WeakKeyDictionary()


async def _passed(response: Response) -> Plan:
    return Plan(None, response)


def guards_of(route: APIRoute, request: Request) -> APIRoute | None:
    """A route that has the guards of this one and nothing else; None without guards.

    A router that is included twice may have other guards at each place; those of the place that
    the request has come by count.
    """
    app = request.app
    known = _places.setdefault(app, {})
    if id(route) not in known:
        known[id(route)] = [
            _guards_at(each, app)
            for each in included_routes(app)
            if getattr(each, "original_route", each) is route
        ]
    found = known[id(route)]
    if len(found) > 1:
        matching = [each for each in found if each.matches(request.scope)[0] is Match.FULL]
        found = matching or found
    return found[0] if found and found[0].dependencies else None


def _guards_at(included: Any, app: Any) -> APIRoute:
    """A place where a route was included, as a route that has its guards and nothing else."""
    guards: list[Any] = []
    for each in included.dependencies:
        if isinstance(each, Guard) and each not in guards:
            guards.append(each)
    return APIRoute(
        included.path,
        _passed,
        methods=list(included.methods or ["GET"]),
        dependencies=guards,
        dependency_overrides_provider=app,
        response_model=None,
    )


def included_routes(app: Any) -> Iterator[Any]:
    """The routes of an application, each with its whole path and all its dependencies.

    FastAPI before 0.150 copies a route when it includes it; later it keeps the original, and says
    what it became by the inclusion.
    """
    contexts = getattr(fastapi.routing, "iter_route_contexts", None)
    for each in app.routes if contexts is None else contexts(app.routes):
        if isinstance(getattr(each, "original_route", each), APIRoute):
            yield each
