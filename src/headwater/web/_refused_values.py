"""A value of a request that a feed's source refuses: a 422 that names the parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

from headwater.errors import FilterValueError
from headwater.web.asgi import Scope
from headwater.web.problems import validation_error


@contextmanager
def naming_parameter(values: Mapping[str, Any]) -> Iterator[None]:
    """Note which parameter of a feed's function a refused value came from."""
    try:
        yield
    except FilterValueError as error:
        error.parameter = next((n for n, v in values.items() if _holds(v, error.value)), None)
        raise


@contextmanager
def refused_values(scope: Scope) -> Iterator[None]:
    """Raise a 422 for a refused value of the request; one of the program stays an error."""
    try:
        yield
    except FilterValueError as error:
        found = None if error.value is None else _parameter(error, scope)
        if found is None:
            raise
        where, name, value = found
        raise validation_error(
            [{"loc": (where, name), "msg": error.problem, "type": "value_error", "input": value}]
        ) from error


def _parameter(error: FilterValueError, scope: Scope) -> tuple[str, str, str] | None:
    """Where a value stands in the request: in the path or the query, its name, and its text."""
    path: dict[str, str] = {n: str(value) for n, value in scope.get("path_params", {}).items()}
    query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    given = [("path", *pair) for pair in path.items()]
    given += [("query", *pair) for pair in query]
    text: str = str(error.value)
    for wanted in (error.parameter, error.name):
        for each in given:
            if each[1] == wanted and (each[2] == text or wanted == error.parameter):
                return each
    return next((each for each in given if each[2] == text), None)


def _holds(value: Any, wanted: object) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(each is wanted for each in value)
    return value is wanted or (type(value) is type(wanted) and bool(value == wanted))
