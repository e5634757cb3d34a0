"""What is wrong with the routes of an application as a whole, which shows when it starts.

FastAPI answers with the first route that matches, so a feed behind another route is never reached.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from headwater.errors import DeclarationError
from headwater.web._guards import included_routes
from headwater.web._live_route import responder_of

logger = logging.getLogger("headwater.web")

_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
# What a path parameter takes; the others take no words.
_TAKES = {"": "[^/]+", "str": "[^/]+", "path": ".*"}


def check_inclusions(app: Any, endpoints: Iterable[Any]) -> None:
    """Check that a client reaches each of a router's routes.

    Arguments:
        endpoints: those of the router.

    Raises DeclarationError for a route that another route of Headwater's is in front of, and for
    one that the application misses. Logs a warning where a route of the application is in front,
    and where the application has none of them.
    """
    before: list[tuple[re.Pattern[str], set[str], Any]] = []
    # By identity: an application's endpoint may be an object that cannot be in a set.
    ours = {id(each): each for each in endpoints if responder_of(each) is not None}
    missing = dict(ours)
    for route in included_routes(app):
        path, methods, endpoint = route.path, set(route.methods or ()), route.endpoint
        missing.pop(id(endpoint), None)
        if id(endpoint) in ours:
            for pattern, theirs, other in before:
                if theirs & methods and pattern.fullmatch(path):
                    _report(path, sorted(theirs & methods)[0], endpoint, other)
                    break
        before.append((_pattern(path), methods, endpoint))
    names = ", ".join(sorted({_name(each) for each in missing.values()}))
    if missing and missing == ours:
        # It may be the application around the one that includes the router.
        logger.warning(
            "the application whose lifespan runs has none of %s: include the LiveRouter after its "
            "routes are declared, or enter `inner.router.lifespan_context(inner)` with the "
            "application that includes it",
            names,
        )
    elif missing:
        raise DeclarationError(
            f"the application misses {names}: FastAPI before 0.150 copies a router's routes when "
            "it includes it, so include the LiveRouter after all of its routes are declared"
        )


def _report(path: str, method: str, endpoint: Any, other: Any) -> None:
    if endpoint is other:
        # The router is included twice.
        return
    sentence = (
        f"{method} {path} ({_name(endpoint)}) is never reached: FastAPI answers it with "
        f"{_name(other)}, which was declared before it"
    )
    if responder_of(other) is None:
        logger.warning("%s; declare that after it, or give one of them another path", sentence)
    else:
        raise DeclarationError(f"{sentence}; give one of them another path")


def _pattern(path: str) -> re.Pattern[str]:
    """What matches the paths that a route answers; a parameter's braces are taken for a word."""
    found, at = "", 0
    for parameter in _PARAMETER.finditer(path):
        found += re.escape(path[at : parameter.start()])
        found += _TAKES.get(parameter[2] or "", r"\{\w+:" + (parameter[2] or "") + r"\}")
        at = parameter.end()
    return re.compile(found + re.escape(path[at:]))


def _name(endpoint: Any) -> str:
    module, name = getattr(endpoint, "__module__", ""), getattr(endpoint, "__qualname__", endpoint)
    return f"{module}.{name}()"
