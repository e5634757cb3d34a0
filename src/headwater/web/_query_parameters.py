"""Query parameters that a handler and its dependencies take, as FastAPI will read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from fastapi import params
from pydantic import BaseModel

from headwater.errors import DeclarationError
from headwater.web._paging import NAMES
from headwater.web._user_functions import readable_parameters, unaliased


def check_paging_parameters(
    feed: str, path: str, call: Callable[..., Any], dependencies: Iterable[params.Depends]
) -> None:
    """Raise DeclarationError for a parameter that keeps paging from the query.

    Arguments:
        feed: its name, for the error.
        path: its path parameters are none of the query.
        call: the feed's handler.
        dependencies: those of the feed and its router.
    """
    in_path = set(re.findall(r"\{(\w+)", path))
    waiting = [("its handler", call), *(_dependency(each.dependency) for each in dependencies)]
    seen: set[int] = set()
    while waiting:
        who, call = waiting.pop(0)
        if id(call) in seen:
            continue
        seen.add(id(call))
        for parameter in readable_parameters(call):
            annotation, notes = unaliased(parameter.annotation)
            marks = [parameter.default, *notes]
            depends = [each for each in marks if isinstance(each, params.Depends)]
            if depends:
                waiting.append(_dependency(depends[-1].dependency or annotation))
                continue
            known = [each for each in marks if isinstance(each, (params.Param, params.Body))]
            query = [each for each in known if isinstance(each, params.Query)]
            if parameter.name not in in_path and (query or not known):
                _check(feed, who, parameter.name, annotation, query)


def _check(feed: str, who: str, name: str, annotation: Any, query: list[params.Query]) -> None:
    """Raise DeclarationError for a query parameter, or a model of some, that is in the way."""
    aliases = (each.validation_alias or each.alias for each in query)
    names = [(next(filter(None, aliases), name), "a parameter")]
    if query and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        names = [
            (each.validation_alias or n, f"{annotation.__name__} with a field")
            for n, each in fields
        ]
        if annotation.model_config.get("extra") == "forbid":
            raise DeclarationError(
                f"feed {feed!r}: {annotation.__name__}, the model of the parameter {name!r} of "
                f"{who}, forbids further query parameters, and every feed has {', '.join(NAMES)} "
                "by itself: leave extra='forbid' out"
            )
    for taken, what in names:
        if taken in NAMES:
            raise DeclarationError(
                f"feed {feed!r}: {who} may not have {what} {taken!r}; every feed has "
                f"{', '.join(NAMES)} by itself: give yours another name"
            )


def _dependency(call: Any) -> tuple[str, Any]:
    """How an error names a dependency, and its function."""
    return f"its dependency {getattr(call, '__name__', type(call).__name__)}()", call
