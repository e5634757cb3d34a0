"""Query parameters that a handler and its dependencies take, as FastAPI will read them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastapi import params
from pydantic import BaseModel

from headwater.errors import DeclarationError
from headwater.web._paging import NAMES
from headwater.web._user_functions import parameters_of, unaliased


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
    seen: set[int] = set()
    own = _Reader(feed, set(re.findall(r"\{(\w+)", path)), seen)
    own.check("its handler", call)
    for each in dependencies:
        own.check_dependency(each.dependency)


class _Reader:
    def __init__(self, feed: str, in_path: set[str], seen: set[int]) -> None:
        self._feed = feed
        self._in_path = in_path
        self._seen = seen

    def check_dependency(self, call: Any) -> None:
        """Check a dependency, and those that it has."""
        if call is None or id(call) in self._seen:
            return
        self._seen.add(id(call))
        name = getattr(call, "__name__", type(call).__name__)
        self.check(f"its dependency {name}()", call)

    def check(self, who: str, call: Any) -> None:
        """Check a function's own parameters, and its dependencies."""
        for parameter in self._parameters(call):
            annotation, notes = unaliased(parameter.annotation)
            marks = [each for each in (parameter.default, *notes) if each is not parameter.empty]
            depends = [each for each in marks if isinstance(each, params.Depends)]
            if depends:
                self.check_dependency(depends[-1].dependency or annotation)
                continue
            known = [each for each in marks if isinstance(each, (params.Param, params.Body))]
            query = [each for each in known if isinstance(each, params.Query)]
            if parameter.name in self._in_path or (known and not query):
                continue
            alias = next((each.alias for each in query if each.alias), parameter.name)
            names = [(alias, "a parameter")]
            if query and isinstance(annotation, type) and issubclass(annotation, BaseModel):
                fields = annotation.model_fields.items()
                shown = f"{annotation.__name__} with a field"
                names = [(each.alias or name, shown) for name, each in fields]
                if annotation.model_config.get("extra") == "forbid":
                    raise DeclarationError(
                        f"feed {self._feed!r}: {annotation.__name__}, the model of the parameter "
                        f"{parameter.name!r} of {who}, forbids further query parameters, and every "
                        f"feed has {', '.join(NAMES)} by itself: leave extra='forbid' out"
                    )
            for name, what in names:
                if name in NAMES:
                    raise DeclarationError(
                        f"feed {self._feed!r}: {who} may not have {what} {name!r}; every feed has "
                        f"{', '.join(NAMES)} by itself: give yours another name"
                    )

    @staticmethod
    def _parameters(call: Any) -> Iterator[inspect.Parameter]:
        try:
            yield from parameters_of(call, "").values()
        except (DeclarationError, TypeError, ValueError):
            # FastAPI has its own word on a signature that cannot be read.
            return
