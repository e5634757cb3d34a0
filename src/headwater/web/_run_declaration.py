"""The routes of runs in FastAPI: their declaration, and their endpoints as FastAPI sees them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response, params

from headwater.errors import DeclarationError
from headwater.feeds import Source
from headwater.runs import Run, State, SyncRun
from headwater.web._guards import Guard, guard_of
from headwater.web._live import Settings
from headwater.web._live_route import set_responder
from headwater.web._openapi import with_own
from headwater.web._plan import Plan
from headwater.web._run_openapi import OPTIONS
from headwater.web._run_routes import ROUTES, Asked, RunRoute, StartRoute
from headwater.web._run_setup import RunDeclaration, checked_owner
from headwater.web._user_functions import (
    as_coroutine,
    asked_for,
    is_coroutine_function,
    parameters_of,
    sign,
    taking,
)


class RunEndpoints:
    """The endpoints of one kind of runs.

    Arguments:
        owner: a dependency that returns the owner's id.
    """

    def __init__(
        self,
        declaration: RunDeclaration,
        call: Callable[..., Any],
        owner: Any,
        settings: Settings,
    ) -> None:
        self._declaration = declaration
        self._call = call
        self._settings = settings
        where = f"run {declaration.kind!r}"
        self.guard = _guard_of(owner, where)
        self._parameters = parameters_of(call, where)
        self._run = self._run_parameter(where)

    def _run_parameter(self, where: str) -> str | None:
        run = taking(self._parameters, Run)
        name = run or taking(self._parameters, SyncRun)
        call = self._call
        if self._declaration.start is not None:
            if name:
                raise DeclarationError(
                    f"{where}: with start=, its function returns the run's input and has no "
                    "parameter of type Run; the worker gets the run by `runs.attempt(run_id)`"
                )
            return None
        if not name:
            raise DeclarationError(f"{where}: its function needs a parameter `run: Run`")
        is_async = is_coroutine_function(call)
        if bool(run) != is_async:
            wanted = "Run" if is_async else "SyncRun"
            raise DeclarationError(
                f"{where}: {'an `async def`' if is_async else 'a `def`'} function needs "
                f"`{name}: {wanted}`"
            )
        return name

    def path_parameters(self, path: str) -> Iterator[params.Depends]:
        """A dependency with the parameters that the function takes of the path, for all routes.

        So each checks them, and OpenAPI has them.
        """
        in_path = set(re.findall(r"\{(\w+)", path)) & self._parameters.keys()

        async def taken(**_: Any) -> None:
            """Nothing is done with them."""

        if in_path:
            sign(taken, [self._parameters[name] for name in sorted(in_path)], None)
            yield Depends(taken)

    def routes(
        self, options: Mapping[str, Any]
    ) -> Iterator[tuple[type[RunRoute], Callable[..., Any], dict[str, Any]]]:
        """Each route, with its endpoint and FastAPI's options.

        Arguments:
            options: the user's own, for all of them.
        """
        for route in ROUTES:
            starts = route is StartRoute
            suffix = "" if starts else f"_{route.name}"
            made = with_own(OPTIONS[route.name], options, suffix)
            made["name"] = self._call.__name__ + suffix
            yield route, self._start() if starts else self._known(route), made

    def _start(self) -> Callable[..., Any]:
        call, run = self._call, self._run
        own = {name: each for name, each in self._parameters.items() if name != run}
        is_async = is_coroutine_function(call)

        async def plan(owner: str, values: dict[str, Any]) -> Asked:
            if run is None:
                return Asked(owner, input=await as_coroutine(call)(**values))

            async def begin(it: Run) -> Any:
                return await call(**values, **{run: it})

            def begin_sync(it: SyncRun) -> Any:
                return call(**values, **{run: it})

            return Asked(owner, begin=begin if is_async else begin_sync)

        return self._endpoint(own, plan, StartRoute)

    def _known(self, route: type[RunRoute]) -> Callable[..., Any]:
        run_id = inspect.Parameter("run_id", _KEYWORD, annotation=str)
        own = {"run_id": run_id, **({"fold": _FOLD} if route.name in ("state", "stream") else {})}

        async def plan(owner: str, values: dict[str, Any]) -> Asked:
            return Asked(owner, **values)

        return self._endpoint(own, plan, route)

    def list(self) -> Callable[..., Any]:
        """The function of the feed of runs."""
        runs = self._declaration.runs
        guard: Any = self.guard

        async def listed(
            headwater_request: Request,
            headwater_owner: Any = guard,
            state: State | None = None,
            group: str | None = None,
        ) -> Source:
            owner = checked_owner(headwater_owner)
            await runs.start()  # so that a producer that has died is noticed
            kind = self._declaration.kind_in(headwater_request.scope)
            return runs.runs_of(kind, owner).where(state=state, group=group)

        listed.__name__ = f"{self._call.__name__}_list"
        return listed

    def _endpoint(
        self,
        own: dict[str, inspect.Parameter],
        plan: Callable[[str, dict[str, Any]], Any],
        route: type[RunRoute],
    ) -> Callable[..., Any]:
        shown = dict(own)
        response = asked_for(shown, Response)
        owner = inspect.Parameter("headwater_owner", _KEYWORD, annotation=Any, default=self.guard)
        shown[owner.name] = owner

        async def endpoint(**values: Any) -> Any:
            whose = checked_owner(values[owner.name])
            found = await plan(whose, {name: values[name] for name in own})
            return Plan(found, values[response])

        sign(endpoint, shown.values(), Response)
        set_responder(endpoint, route(self._declaration, self._settings))
        return endpoint


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_FOLD = inspect.Parameter(
    "fold",
    _KEYWORD,
    annotation=Annotated[bool, Query(description="The output so far as one text.")],
    default=False,
)


def _guard_of(owner: Any, where: str) -> Guard:
    given = owner if isinstance(owner, params.Depends) else Depends(owner)
    if not callable(given.dependency):
        raise DeclarationError(
            f"{where}: owner={owner!r}: it must be a dependency that returns the id of the caller"
        )
    return guard_of(given)
