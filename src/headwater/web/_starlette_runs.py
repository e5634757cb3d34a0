"""The routes of runs in Starlette without FastAPI: they read the request for the responders."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from headwater.errors import DeclarationError
from headwater.feeds import Source
from headwater.runs import Run, State, SyncRun
from headwater.web._remembered_request import RECHECK
from headwater.web._run_requests import storable
from headwater.web._run_routes import Asked
from headwater.web._run_setup import RunDeclaration, checked_owner
from headwater.web._user_functions import as_coroutine, is_coroutine_function
from headwater.web.problems import Problem, validation_error

_STATES: tuple[str, ...] = get_args(State)


class RunCalls:
    """Reads the requests for one kind of runs.

    Arguments:
        owner: gives the caller's id of a request.
        body: the model of a start's body, or None for any JSON.
    """

    def __init__(
        self,
        declaration: RunDeclaration,
        call: Callable[..., Any],
        owner: Callable[[Request], Any],
        body: type[BaseModel] | None,
    ) -> None:
        if not callable(owner):
            raise DeclarationError(
                f"run {declaration.kind!r}: owner={owner!r}: write a function of the request "
                "that returns the id of the caller"
            )
        self._declaration = declaration
        self._call = call
        self._owner = as_coroutine(owner)
        self._body = body

    async def listed(self, request: Request) -> Source:
        """The function of the feed of runs."""
        runs, kind = self._declaration.runs, self._declaration.kind_in(request.scope)
        owner = await self._owner_of(request)
        state = request.query_params.get("state")
        if state is not None and state not in _STATES:
            raise Problem(422, f"state={state[:40]!a}: send one of {', '.join(_STATES)}")
        await runs.start()  # so that a producer that has died is noticed
        return runs.runs_of(kind, owner).where(state=state, group=request.query_params.get("group"))

    async def known(self, request: Request) -> Asked:
        """Reads a request for an existing run."""
        owner = await self._owner_of(request)
        fold = request.query_params.get("fold", "false").lower()
        if fold not in ("true", "false", "1", "0"):
            raise Problem(422, f"fold={fold[:40]!a}: send true or false")
        return Asked(owner, request.path_params["run_id"], fold in ("true", "1"))

    async def start(self, request: Request) -> Asked:
        """Reads a request that starts a run."""
        owner = await self._owner_of(request)
        if RECHECK in request.scope:  # its body is gone
            return Asked(owner)
        own = self._declaration
        given = await self._input(request)
        if own.start is not None:
            made = await as_coroutine(self._call)(request)
            return Asked(owner, input=given if made is None else made)
        call = self._call
        if is_coroutine_function(call):

            async def begin(run: Run) -> Any:
                return await call(run, request)

            return Asked(owner, begin=begin, input=given)

        def begin_sync(run: SyncRun) -> Any:
            return call(run, request)

        return Asked(owner, begin=begin_sync, input=given)

    async def _input(self, request: Request) -> Any:
        """Returns the run's input, a JSON value. Raises 422."""
        body = await request.body()
        log = self._declaration.runs.log
        if self._body is not None:
            try:
                return storable(self._body.model_validate_json(body or b"{}"), log)
            except ValidationError as error:
                raise validation_error(
                    [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
                ) from None
        try:
            return storable(json.loads(body) if body else None, log)
        except (ValueError, RecursionError) as error:
            raise Problem(422, f"The body is not JSON: {error}") from None

    async def _owner_of(self, request: Request) -> str:
        return checked_owner(await self._owner(request))
