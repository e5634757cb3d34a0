"""An APIRouter whose routes take ``sse=``: the low level of ``LiveRouter``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

from fastapi import APIRouter, params

from headwater.errors import DeclarationError
from headwater.web._endpoints import event_endpoint
from headwater.web._guards import check_dependencies
from headwater.web._live import Settings
from headwater.web._live_route import set_allowed
from headwater.web._openapi import event_options
from headwater.web._route_options import RouteOptions
from headwater.web.asgi import SSE

Handler = TypeVar("Handler", bound=Callable[..., Any])


class EventRouter(APIRouter):
    """Its routes can stream: each method takes ``sse=``.

    Arguments:
        options: as APIRouter takes them.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings
        # By path.
        self._allowed: dict[str, set[str]] = {}

    def add_api_route(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        sse: bool | SSE | None = None,
        **options: Any,
    ) -> None:
        """As APIRouter's, and ``sse=True`` or ``sse=SSE(...)`` for a handler that streams."""
        methods = [each.upper() for each in options.pop("methods", None) or ["GET"]]
        if not sse:
            self._allowed.setdefault(path, set()).update(methods)
            super().add_api_route(path, endpoint, methods=methods, **options)
            return
        settings = SSE() if sse is True else sse
        if not isinstance(settings, SSE):
            raise DeclarationError(f"{path}: sse={sse!r}: write True or SSE(...)")
        status = options.get("status_code") or 200
        if settings.kind == "only" and status != 200:
            raise DeclarationError(
                f"{path}: status_code={status!r}: a stream is answered with 200; for another one "
                "its handler calls `stream.send_headers(status)` before it sends"
            )
        check_dependencies(path, options.get("dependencies") or ())
        handler = event_endpoint(endpoint, path, settings, self._settings)
        options = event_options(settings, options)
        self._add(path, handler, methods, options, head=settings.kind != "manual")

    def _add(
        self,
        path: str,
        endpoint: Callable[..., Any],
        methods: list[str],
        options: Mapping[str, Any],
        *,
        head: bool = True,
    ) -> None:
        """Add a route that a responder answers, and one for HEAD beside GET, not in OpenAPI."""
        allowed = self._allowed.setdefault(path, set())
        allowed.update(methods)
        set_allowed(endpoint, allowed)
        super().add_api_route(path, endpoint, methods=methods, **options)
        if head and "GET" in methods:
            allowed.add("HEAD")
            hidden = {**options, "include_in_schema": False}
            super().add_api_route(path, endpoint, methods=["HEAD"], **hidden)

    def api_route(  # type: ignore[override]
        self,
        path: str,
        *,
        sse: bool | SSE | None = None,
        methods: list[str] | None = None,
        **options: Unpack[RouteOptions],
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's, with ``sse=``."""

        def declare(endpoint: Handler) -> Handler:
            self.add_api_route(path, endpoint, sse=sse, methods=methods, **options)
            return endpoint

        return declare

    def get(  # type: ignore[override]
        self, path: str, *, sse: bool | SSE | None = None, **options: Unpack[RouteOptions]
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's, with ``sse=``."""
        return self.api_route(path, sse=sse, methods=["GET"], **options)

    def post(  # type: ignore[override]
        self, path: str, *, sse: bool | SSE | None = None, **options: Unpack[RouteOptions]
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's, with ``sse=``, for APIs that stream the answer to a POST."""
        return self.api_route(path, sse=sse, methods=["POST"], **options)

    def put(  # type: ignore[override]
        self, path: str, *, sse: bool | SSE | None = None, **options: Unpack[RouteOptions]
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's, with ``sse=``."""
        return self.api_route(path, sse=sse, methods=["PUT"], **options)

    def patch(  # type: ignore[override]
        self, path: str, *, sse: bool | SSE | None = None, **options: Unpack[RouteOptions]
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's, with ``sse=``."""
        return self.api_route(path, sse=sse, methods=["PATCH"], **options)

    def delete(  # type: ignore[override]
        self, path: str, *, sse: bool | SSE | None = None, **options: Unpack[RouteOptions]
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's, with ``sse=``."""
        return self.api_route(path, sse=sse, methods=["DELETE"], **options)

    def websocket(
        self,
        path: str,
        name: str | None = None,
        *,
        dependencies: Sequence[params.Depends] | None = None,
        sse: object = None,
    ) -> Callable[[Handler], Handler]:
        """As APIRouter's. Raises DeclarationError for ``sse=``."""
        if sse is not None:
            raise DeclarationError(
                f"websocket({path!r}, sse={sse!r}): a WebSocket sends no event stream; declare "
                f"@live.get({path!r}, sse=True)"
            )
        return super().websocket(path, name, dependencies=dependencies)
