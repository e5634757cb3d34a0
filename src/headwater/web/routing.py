"""Finds the route of a request among few, for a router that is included in an application.

FastAPI tries an included router's routes one after another, and does so twice for each request:
once to see whether one of them fits, once more to call it. With some tens of routes that costs
more than all else that a stream's request does.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.routing import _IncludedRouter
from starlette._utils import get_route_path
from starlette.convertors import (
    FloatConvertor,
    IntegerConvertor,
    StringConvertor,
    UUIDConvertor,
)

__all__ = ["find_quickly", "make_routes"]

_WITHIN_A_PART = {FloatConvertor, IntegerConvertor, StringConvertor, UUIDConvertor}


def find_quickly(app: FastAPI) -> None:
    """Let the router that was included last find its routes quickly; it finds the same ones."""
    included = app.router.routes[-1]
    # Where FastAPI does it in another way, it is left as it is.
    if type(included) is _IncludedRouter:
        included.__class__ = _Quick


def make_routes(app: FastAPI) -> None:
    """Make what included routers' routes need, which FastAPI leaves to the first request."""
    for route in app.router.routes:
        if isinstance(route, _IncludedRouter):
            _make(route)


def _make(included: _IncludedRouter) -> None:
    for each in included.effective_candidates():
        if isinstance(each, _IncludedRouter):
            _make(each)


class _Quick(_IncludedRouter):
    """An included router that looks at those of its routes alone whose fixed parts fit."""

    # A class that is given to an object of another one may have no fields of its own, so what it
    # keeps is made when it is asked for.
    def _known(self) -> _Known:
        known = self.__dict__.get("_headwater")
        router = self.original_router
        if known is not None and not known.nested:
            version = router._routes_version
        else:
            # It asks all routers that are included in this one too.
            version = router._get_routes_version()
        if known is None or known.version != version:
            known = _Known(version, super().effective_candidates())
            self.__dict__["_headwater"] = known
        return known

    def effective_candidates(self) -> Any:
        known = self.__dict__.get("_headwater")
        few = None if known is None else known.local.__dict__.get("few")
        return super().effective_candidates() if few is None else few

    def _match(self, scope: Any) -> Any:
        known = self._known()
        here = known.local.__dict__
        seen, found = here.pop("last", (None, None))
        if seen is scope:
            return found
        few = known.fitting(get_route_path(scope))
        if few is None:
            return super()._match(scope)
        here["few"] = few
        try:
            found = super()._match(scope)
        finally:
            del here["few"]
        # It is called at once if it fits, and then asked for again.
        here["last"] = (scope, found)
        return found


class _Known:
    """The routes of one version of a router, by their fixed parts."""

    def __init__(self, version: int, candidates: Sequence[Any]) -> None:
        self.version = version
        self.nested = any(isinstance(each, _IncludedRouter) for each in candidates)
        self.local = threading.local()
        self._all = [(each, _parts(each)) for each in candidates]
        self._literals = {
            part for _, parts in self._all for part in parts or () if part is not None
        }
        self._longest = max((len(parts) for _, parts in self._all if parts), default=0)
        self._fitting: dict[tuple[int, str | None, str | None], Sequence[Any]] = {}

    def fitting(self, path: str) -> Sequence[Any] | None:
        """Those that a path may belong to, in their order; None when that is not known."""
        parts = path.split("/")
        count = len(parts)
        if not 2 < count <= self._longest:
            return None
        # Of what a caller wrote only what is part of some route is kept.
        third = parts[2] if parts[2] in self._literals else None
        last = parts[-1] if parts[-1] in self._literals else None
        found = self._fitting.get((count, third, last))
        if found is None:
            found = self._fitting[count, third, last] = [
                each
                for each, wanted in self._all
                if wanted is None
                or (len(wanted) == count and _fits(wanted[2], third) and _fits(wanted[-1], last))
            ]
        return found


def _fits(wanted: str | None, part: str | None) -> bool:
    return wanted is None or wanted == part


def _parts(candidate: Any) -> Sequence[str | None] | None:
    """The fixed parts of a route's path, None for a parameter; None if it may have any number."""
    path = getattr(candidate, "path_format", None)
    convertors = getattr(candidate, "param_convertors", None)
    if not isinstance(path, str) or convertors is None:
        return None
    # One of an application's own may match a slash.
    if not all(type(each) in _WITHIN_A_PART for each in convertors.values()):
        return None
    return [None if "{" in part else part for part in path.split("/")]
