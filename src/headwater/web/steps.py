"""Dependencies as a list of steps, made once for each route.

FastAPI walks the tree of a route's dependencies for each request and asks of each node anew what
kind it is. Where all of them are plain, which they are for most feeds, the same calls in the same
order are a short list. Everything else is left to FastAPI: generators, functions for threads,
bodies, headers, scopes, overrides, and every request with a parameter that does not validate.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant, _is_coroutine_callable
from fastapi.dependencies.utils import _get_param_model, request_params_to_args
from fastapi.telemetry._api import get_telemetry_data

__all__ = ["Run", "Steps"]

_NOTHING: Mapping[str, Any] = {}
_FIXED = (str, int, float, bool, type(None))


@dataclass(slots=True)
class _Step:
    """One call.

    Attributes:
        request, response: the names of the parameters that take these.
        path, query: its own parameters.
        absent: what the query's are when the request has none of them, if that is always the same.
        aliases: the names that these have in a query.
        needs: by parameter, the step that makes it.
    """

    call: Callable[..., Awaitable[Any]]
    request: str | None
    response: str | None
    path: Sequence[ModelField]
    query: Sequence[ModelField]
    absent: Mapping[str, Any] | None
    aliases: frozenset[str]
    needs: tuple[tuple[str, int], ...]


class Steps:
    """The steps of one route, in phases."""

    def __init__(self, steps: Sequence[_Step], ends: Sequence[int]) -> None:
        self._steps = steps
        self._ends = ends
        self._asking = [at for at, step in enumerate(steps) if step.path or step.query]

    @classmethod
    def of(cls, *phases: Sequence[Dependant]) -> Steps | None:
        """The steps that solve these and call them, or None where FastAPI has to."""
        steps: list[_Step] = []
        known: dict[Any, int] = {}
        ends: list[int] = []
        for phase in phases:
            for dependant in phase:
                if _add(dependant, steps, known) is None:
                    return None
            ends.append(len(steps))
        return cls(steps, ends)

    def begin(self, request: Request, response: Response, overrides: Any) -> Run | None:
        """A run for one request, or None where FastAPI has to. Nothing was called then."""
        if overrides is not None and overrides.dependency_overrides:
            return None
        if get_telemetry_data() is not None:
            return None
        given: list[Mapping[str, Any]] = [_NOTHING] * len(self._steps)
        for at in self._asking:
            step = self._steps[at]
            found, errors = request_params_to_args(step.path, request.path_params)
            if not errors and step.query:
                asked = request.query_params
                if step.absent is not None and step.aliases.isdisjoint(asked):
                    found.update(step.absent)
                else:
                    more, errors = request_params_to_args(step.query, asked)
                    found.update(more)
            if errors:
                return None
            given[at] = found
        return Run(self._steps, self._ends, given, request, response)


class Run:
    """The steps of one request."""

    __slots__ = ("_ends", "_given", "_request", "_response", "_results", "_steps")

    def __init__(
        self,
        steps: Sequence[_Step],
        ends: Sequence[int],
        given: Sequence[Mapping[str, Any]],
        request: Request,
        response: Response,
    ) -> None:
        self._steps = steps
        self._ends = ends
        self._given = given
        self._request = request
        self._response = response
        self._results: list[Any] = []

    async def phase(self, number: int) -> Any:
        """Take the steps of a phase, after those before it. Returns what the last one returned."""
        results = self._results
        for at in range(len(results), self._ends[number]):
            step = self._steps[at]
            values = dict(self._given[at])
            if step.request is not None:
                values[step.request] = self._request
            if step.response is not None:
                values[step.response] = self._response
            for name, made in step.needs:
                values[name] = results[made]
            results.append(await step.call(**values))
        return results[-1] if results else None


def _add(dependant: Dependant, steps: list[_Step], known: dict[Any, int]) -> int | None:
    """Add what a dependant needs, then itself. Returns its step, or None if it is not plain."""
    call = dependant.call
    if (
        call is None
        or not _is_coroutine_callable(call)
        or dependant.header_params
        or dependant.cookie_params
        or dependant.body_params
        or dependant.websocket_param_name is not None
        or dependant.background_tasks_param_name is not None
        or dependant.security_scopes_param_name is not None
        or dependant.own_oauth_scopes
        or dependant.parent_oauth_scopes
        or dependant.concurrency is not None
        or (dependant.request_param_name and dependant.http_connection_param_name)
    ):
        return None
    needs = []
    for inner in dependant.dependencies:
        at = _add(inner, steps, known)
        if at is None:
            return None
        if inner.name is not None:
            needs.append((inner.name, at))
    name = (id(call), dependant.scope)
    if dependant.use_cache and name in known:
        return known[name]
    absent, aliases = _absent(dependant.query_params)
    steps.append(
        _Step(
            call,
            dependant.request_param_name or dependant.http_connection_param_name,
            dependant.response_param_name,
            copy.copy(dependant.path_params),
            copy.copy(dependant.query_params),
            absent,
            aliases,
            tuple(needs),
        )
    )
    # What was called first is what FastAPI takes for all that follow.
    made = len(steps) - 1
    first = known.setdefault(name, made)
    return first if dependant.use_cache else made


def _absent(fields: Sequence[ModelField]) -> tuple[Mapping[str, Any] | None, frozenset[str]]:
    values: dict[str, Any] = {}
    aliases: set[str] = set()
    for field in fields:
        info = field.field_info
        aliases |= {field.alias, field.name}
        for other in (info.alias, info.validation_alias):
            if isinstance(other, str):
                aliases.add(other)
            elif other is not None:
                return None, frozenset()
        if (
            _get_param_model(field) is not None
            or info.is_required()
            or info.default_factory is not None
            or info.validate_default
            or type(field.default) not in _FIXED
        ):
            return None, frozenset()
        values[field.name] = field.default
    return values, frozenset(aliases)
