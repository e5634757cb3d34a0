"""The console at ``/`` and the API's reference at ``/docs``: files of this package.

Everything they load comes from here: no CDN, nothing inline.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from starlette.routing import BaseRoute, Match
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from headwater.web.problems import Problem

__all__ = ["Pages", "console_pages", "reference_pages"]

_HERE = Path(__file__).parent


class Pages(BaseRoute):
    """Serves the files of one folder. Other paths are left to the routes after it.

    Arguments:
        folder: where the files are.
        prefix: what their paths begin with, such as ``"/docs"``; ``""`` for the root.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        # In a checkout the browser client is a link into clients/js; only files of this folder
        # are asked for.
        self._static = StaticFiles(directory=folder, follow_symlink=True)
        self._files: Mapping[str, str] = {
            f"{prefix}/{file.relative_to(folder).as_posix()}": str(file.relative_to(folder))
            for file in sorted(folder.rglob("*"))
            if file.is_file() and not any(part.startswith(".") for part in file.parts)
        } | {prefix or "/": "index.html"}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["path"] not in self._files:
            return Match.NONE, {}
        return (Match.FULL if scope["method"] in {"GET", "HEAD"} else Match.PARTIAL), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            raise Problem(405, "This is a file: GET and HEAD.", headers={"Allow": "GET, HEAD"})
        response = await self._static.get_response(self._files[scope["path"]], scope)
        # Browsers ask again each time and get 304, so that they show a new version at once.
        response.headers["cache-control"] = "no-cache"
        await response(scope, receive, send)


def console_pages() -> Pages:
    """The console."""
    return Pages(_HERE / "console")


def reference_pages() -> Pages:
    """The reference, which shows ``/openapi.json``."""
    return Pages(_HERE / "reference", "/docs")
