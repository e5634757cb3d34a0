"""Guards: dependencies that decide before anything else of the request is looked at.

FastAPI reads the body and collects validation errors before, or together with, solving
dependencies, so a caller without a right can learn from a 422 what a route expects. A guard is
solved first: 401, 403 and 404 come before any 422, also for a malformed body.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Request, params
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_parameterless_sub_dependant, solve_dependencies
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, _effective_route_context_var, get_request_handler
from starlette.responses import Response

from headwater.web.steps import Steps

__all__ = ["Guard", "GuardedRoute", "Guards", "guard", "identify", "subjects"]

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_SUBJECTS = "headwater.subjects"


class Guard(params.Depends):
    """A dependency that is solved before the body is read and parameters are validated.

    Attributes:
        permission: what it asks for, as documentation and ``headwater check`` show it.
    """

    permission: str | None = None


def guard(call: Callable[..., Any], permission: str | None = None) -> Any:
    """Like ``Depends(call)``, for ``dependencies=[...]``, but decided before anything else.

    ``call`` raises Problem or HTTPException with 401, 403 or 404. The routes must be of a
    LiveRouter, or of an APIRouter with ``route_class=GuardedRoute``.
    """
    made = Guard(dependency=call)
    # Depends is a frozen dataclass.
    object.__setattr__(made, "permission", permission)
    return made


def identify(request: Request, subject: str) -> None:
    """Tag this request, and a stream that comes of it, as ``subject``'s, such as ``"user:7"``.

    ``LiveRouter.recheck(subject)`` asks the rights of all its streams again at once.
    """
    request.scope.setdefault(_SUBJECTS, set()).add(subject)


def subjects(scope: Any) -> tuple[str, ...]:
    """The subjects that guards have named for a request, in order."""
    return tuple(sorted(scope.get(_SUBJECTS, ())))


class Guards:
    """The guards of one route, in the order app, router, route."""

    def __init__(self, dependencies: Iterable[params.Depends], path: str) -> None:
        self.guards = [each for each in dependencies if isinstance(each, Guard)]
        self._dependants = [
            Dependant(
                path=path, dependencies=[get_parameterless_sub_dependant(depends=each, path=path)]
            )
            for each in self.guards
        ]
        self._steps = Steps.of(self.solved)

    @property
    def solved(self) -> list[Dependant]:
        """What FastAPI would solve for them."""
        return [guard for each in self._dependants for guard in each.dependencies]

    @property
    def permissions(self) -> list[str]:
        """What they ask for, as far as they say."""
        return [each.permission for each in self.guards if each.permission is not None]

    async def solve(self, request: Request, response: Response, overrides: Any) -> None:
        """Let each decide. Raises what they raise.

        Resources that they hold, such as a database session, are released when this returns.
        """
        if not self._dependants:
            return
        steps = self._steps
        run = None if steps is None else steps.begin(request, response, overrides)
        if run is not None:
            await run.phase(0)
            return
        cache: dict[Any, Any] = {}
        async with AsyncExitStack() as stack:
            with _stacks(request, stack):
                for dependant in self._dependants:
                    solved = await solve_dependencies(
                        request=request,
                        dependant=dependant,
                        response=response,
                        dependency_overrides_provider=overrides,
                        dependency_cache=cache,
                        async_exit_stack=stack,
                        embed_body_fields=False,
                    )
                    if solved.errors:
                        raise RequestValidationError(solved.errors)


class _stacks:  # noqa: N801 - reads as the function that it is
    """Dependencies with ``yield`` are closed with ``stack`` instead of after the response."""

    def __init__(self, request: Request, stack: AsyncExitStack) -> None:
        self._scope = request.scope
        self._stack = stack

    def __enter__(self) -> None:
        names = (
            "fastapi_inner_astack",
            "fastapi_function_astack",
            "fastapi_middleware_astack",
        )
        self._before = {name: self._scope.get(name) for name in names}
        for name in names:
            self._scope[name] = self._stack

    def __exit__(self, *_: object) -> None:
        self._scope.update(self._before)


class GuardedRoute(APIRoute):
    """A route whose guards decide first."""

    def get_route_handler(self) -> Handler:
        # An included router's routes have what they inherit in a context of their own.
        context = _effective_route_context_var.get()
        route: Any = self
        if context is not None and context.original_route is self:
            route = context
        guards = Guards(route.dependencies, route.path_format)
        dependant = _without(route.dependant, guards.guards)
        handler = get_request_handler(
            dependant=dependant,
            body_field=route.body_field,
            status_code=route.status_code,
            response_class=route.response_class,
            response_field=route.response_field,
            response_model_include=route.response_model_include,
            response_model_exclude=route.response_model_exclude,
            response_model_by_alias=route.response_model_by_alias,
            response_model_exclude_unset=route.response_model_exclude_unset,
            response_model_exclude_defaults=route.response_model_exclude_defaults,
            response_model_exclude_none=route.response_model_exclude_none,
            dependency_overrides_provider=route.dependency_overrides_provider,
            embed_body_fields=route._embed_body_fields,
            strict_content_type=route.strict_content_type,
            form_limits=self.form_limits,
            stream_item_field=route.stream_item_field,
            is_json_stream=route.is_json_stream,
        )
        return self.wrap(handler, guards, dependant, route.dependency_overrides_provider)

    def wrap(
        self,
        handler: Handler,
        guards: Guards,
        dependant: Dependant,  # noqa: ARG002 - for those that solve it themselves
        overrides: Any,
    ) -> Handler:
        """What answers a request: the guards, then the handler, which solves ``dependant``."""
        if not guards.guards:
            return handler

        async def guarded(request: Request) -> Response:
            extra = _empty_response()
            await guards.solve(request, extra, overrides)
            response = await handler(request)
            response.headers.raw.extend(extra.headers.raw)
            return response

        return guarded


def _empty_response() -> Response:
    """For what dependencies set; without headers of its own, as FastAPI has it."""
    response = Response.__new__(Response)
    response.status_code = 200
    response.background = None
    response.body = b""
    response.raw_headers = []
    return response


def _without(dependant: Dependant, guards: list[Guard]) -> Dependant:
    """A route's dependencies without its guards, which have been solved by then.

    One whose value the handler takes as a parameter is solved again, for that value.
    """
    calls = {id(each.dependency) for each in guards}
    rest = copy.copy(dependant)
    rest.dependencies = [
        each
        for each in dependant.dependencies
        if each.name is not None or id(each.call) not in calls
    ]
    return rest
