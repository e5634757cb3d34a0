"""An application that includes a LiveRouter when it is used first, after all routes are declared.

FastAPI before 0.150 copies a router's routes when it includes it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from headwater.web.fastapi import LiveRouter


class Application(FastAPI):
    """Includes ``live`` under ``prefix`` before its first request, lifespan or document."""

    def __init__(self, live: LiveRouter, *, prefix: str = "", **options: Any) -> None:
        self._to_include: tuple[LiveRouter, str] | None = (live, prefix)
        super().__init__(**options)

    def include(self) -> None:
        if self._to_include is not None:
            (live, prefix), self._to_include = self._to_include, None
            self.include_router(live, prefix=prefix)

    def build_middleware_stack(self) -> Any:
        self.include()
        return super().build_middleware_stack()

    def openapi(self) -> dict[str, Any]:
        self.include()
        return super().openapi()
