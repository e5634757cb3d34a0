"""The routes of runs in FastAPI: their declaration, and their endpoints as FastAPI sees them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response, params

from headwater.errors import DeclarationError
from headwater.runs import Busy, Run, Runs, State, SyncRun
from headwater.web._guards import Guard, guard_of
from headwater.web._live import Settings
from headwater.web._live_route import set_responder
from headwater.web._plan import Plan
from headwater.web._run_item import HeadwaterRunItem
from headwater.web._run_openapi import route_options
from headwater.web._run_routes import (
    Asked,
    CancelRoute,
    DeleteRoute,
    RunDeclaration,
    StartRoute,
    StateRoute,
    StreamRoute,
)
from headwater.web._run_setup import OnDisconnect, check_declaration, checked_owner, declare_kind
from headwater.web._signatures import asked_for, parameters_of
from headwater.web._user_functions import called, is_coroutine_function

__all__ = ["declare_runs"]


class RunEndpoints:
    """The endpoints of one kind of runs.

    Arguments:
        owner: a dependency that returns the owner's id.
    """

    def __init__(self, declaration: RunDeclaration, settings: Settings, owner: Any) -> None:
        self._declaration = declaration
        self._settings = settings
        where = f"run {declaration.kind!r}"
        self.guard = _guard_of(owner, where)
        self._parameters = parameters_of(declaration.call, where)
        self._run = self._run_parameter(where)

    def _run_parameter(self, where: str) -> str | None:
        kinds = {Run: True, SyncRun: False}
        found = [name for name, each in self._parameters.items() if each.annotation in kinds]
        call = self._declaration.call
        if self._declaration.start is not None:
            if found:
                raise DeclarationError(
                    f"{where}: with start=, its function returns the run's input and has no "
                    "parameter of type Run; the worker gets the run by `runs.attempt(run_id)`"
                )
            return None
        if not found:
            raise DeclarationError(f"{where}: its function needs a parameter `run: Run`")
        (name,) = found
        is_async = is_coroutine_function(call)
        if kinds[self._parameters[name].annotation] != is_async:
            wanted = "Run" if is_async else "SyncRun"
            raise DeclarationError(
                f"{where}: {'an `async def`' if is_async else 'a `def`'} function needs "
                f"`{name}: {wanted}`"
            )
        return name

    def start(self) -> Callable[..., Any]:
        """``POST {path}``."""
        call, run = self._declaration.call, self._run
        own = {name: each for name, each in self._parameters.items() if name != run}
        is_async = is_coroutine_function(call)

        async def plan(owner: str, values: dict[str, Any]) -> Asked:
            if run is None:
                given = await called(call, is_async, **values)
                dump = getattr(given, "model_dump", None)
                return Asked(owner, input=given if dump is None else dump(mode="json"))

            async def begin(it: Run) -> Any:
                return await call(**values, **{run: it})

            def begin_sync(it: SyncRun) -> Any:
                return call(**values, **{run: it})

            return Asked(owner, begin=begin if is_async else begin_sync)

        return self._endpoint(own, plan, StartRoute, getattr(call, "__name__", "start"))

    def list(self) -> Callable[..., Any]:
        """The function of the feed of runs."""
        runs = self._declaration.runs

        async def listed(
            headwater_owner: Any,
            headwater_request: Request,
            state: State | None = None,
            group: str | None = None,
        ) -> Any:
            owner = checked_owner(headwater_owner)
            await runs.start()  # so that a producer that has died is noticed
            kind = self._declaration.kind_in(headwater_request.scope)
            return runs.runs_of(kind, owner).where(state=state, group=group)

        _sign(
            listed,
            [
                self._owner_parameter(),
                inspect.Parameter("headwater_request", _KEYWORD, annotation=Request),
                inspect.Parameter("state", _KEYWORD, annotation=State | None, default=None),
                inspect.Parameter("group", _KEYWORD, annotation=str | None, default=None),
            ],
            f"{self._declaration.call.__name__}_list",
        )
        return listed

    def of_run(
        self, route: Callable[[RunDeclaration, Settings], Any], what: str, **more: inspect.Parameter
    ) -> Callable[..., Any]:
        run_id = inspect.Parameter("run_id", _KEYWORD, annotation=str)

        async def plan(owner: str, values: dict[str, Any]) -> Asked:
            return Asked(owner, **values)

        name = f"{self._declaration.call.__name__}_{what}"
        return self._endpoint({"run_id": run_id, **more}, plan, route, name)

    def _endpoint(
        self,
        own: dict[str, inspect.Parameter],
        plan: Callable[[str, dict[str, Any]], Any],
        route: Callable[[RunDeclaration, Settings], Any],
        name: str,
    ) -> Callable[..., Any]:
        wanted = set(own)
        shown = dict(own)
        response = asked_for(shown, Response)
        owner = self._owner_parameter()
        shown[owner.name] = owner

        async def endpoint(**values: Any) -> Any:
            whose = checked_owner(values[owner.name])
            found = await plan(whose, {name: values[name] for name in wanted})
            return Plan(found, values[response])

        _sign(endpoint, list(shown.values()), name)
        set_responder(endpoint, route(self._declaration, self._settings))
        return endpoint

    def _owner_parameter(self) -> inspect.Parameter:
        return inspect.Parameter("headwater_owner", _KEYWORD, annotation=Any, default=self.guard)


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_FOLD = inspect.Parameter(
    "fold",
    _KEYWORD,
    annotation=Annotated[bool, Query(description="The output so far as one text.")],
    default=False,
)


def _sign(call: Any, parameters: Sequence[inspect.Parameter], name: str) -> None:
    call.__name__ = name
    call.__annotations__ = {}
    call.__signature__ = inspect.Signature(list(parameters), return_annotation=Response)


def _guard_of(owner: Any, where: str) -> Guard:
    given = owner if isinstance(owner, params.Depends) else Depends(owner)
    if not callable(given.dependency):
        raise DeclarationError(
            f"{where}: owner={owner!r}: it must be a dependency that returns the id of the caller"
        )
    return guard_of(given)


def declare_runs(
    router: Any,
    add: Callable[..., None],
    path: str,
    runs: Runs,
    settings: Settings,
    *,
    owner: Any,
    group: str | None,
    busy: Busy,
    start: Callable[[str], Any] | None,
    on_disconnect: OnDisconnect,
    max_body: int,
    guards: Sequence[params.Depends],
    name: str | None,
    options: Any,
) -> Callable[[Any], Any]:
    """Add the routes of runs to a LiveRouter. Returns the decorator of their function."""
    kind = name or router.prefix + path
    where = f"run {kind!r}"
    check_declaration(where, runs, busy, on_disconnect)
    if (path and not path.startswith("/")) or path.endswith("/") or not router.prefix + path:
        raise DeclarationError(f"{where}: a path such as '/answers' is needed")
    if runs not in router.runs:
        router.runs.append(runs)

    def declare(call: Any) -> Any:
        declaration = RunDeclaration(runs, kind, group, busy, max_body, on_disconnect, start, call)
        endpoints = RunEndpoints(declaration, settings, owner)
        declare_kind(where, runs, kind, call)
        own = [endpoints.guard, *guards]
        router.feed(
            path,
            item=HeadwaterRunItem,
            collection="runs",
            event="run",
            keyed=True,
            name=kind,
            dependencies=own,
            **options,
        )(endpoints.list())
        one = path + "/{run_id}"
        routes = (
            ("start", "POST", path, endpoints.start()),
            ("state", "GET", one, endpoints.of_run(StateRoute, "state", fold=_FOLD)),
            ("stream", "GET", one + "/stream", endpoints.of_run(StreamRoute, "stream", fold=_FOLD)),
            ("cancel", "POST", one + "/cancel", endpoints.of_run(CancelRoute, "cancel")),
            ("delete", "DELETE", one, endpoints.of_run(DeleteRoute, "delete")),
        )
        described = route_options(call.__name__)
        for what, method, address, endpoint in routes:
            add(address, endpoint, [method], {**options, **described[what], "dependencies": own})
        return call

    return declare
