"""The console at ``/`` and the API's reference at ``/docs``: files of this package.

Everything they load comes from here: no CDN, nothing inline.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from headwater.web.problems import Problem

_HERE = Path(__file__).parent
# `mimetypes` asks the system, whose answer may differ; browsers run no module of another type.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


class Pages(BaseRoute):
    """Serves the files of one folder. Other paths are left to the routes after it.

    Arguments:
        name: of a folder beside this file.
        prefix: what their paths begin with, such as ``"/docs"``; ``""`` for the root.
    """

    def __init__(self, name: str, prefix: str = "") -> None:
        folder = _HERE / name
        self._files: Mapping[str, _File] = {
            f"{prefix}/{file.relative_to(folder).as_posix()}": _File(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and not any(part.startswith(".") for part in file.parts)
        } | {prefix or "/": _File(folder / "index.html")}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["path"] not in self._files:
            return Match.NONE, {}
        return (Match.FULL if scope["method"] in {"GET", "HEAD"} else Match.PARTIAL), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            raise Problem(405, "A file answers GET and HEAD only.", headers={"Allow": "GET, HEAD"})
        response = self._files[scope["path"]].response(Request(scope))
        await response(scope, receive, send)


class _File:
    """One file, kept in memory: a page loads some forty, and reading each in a thread is slower."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
        self._read_at = 0
        self._content = b""
        self._etag = ""

    def response(self, request: Request) -> Response:
        """The file. It is read again after a change, for those who edit it."""
        changed = self._path.stat().st_mtime_ns
        if changed != self._read_at:
            self._content = self._path.read_bytes()
            self._etag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'
            self._read_at = changed
        # Browsers ask each time and get 304, so they show a new version at once.
        headers = {"etag": self._etag, "cache-control": "no-cache"}
        asked = request.headers.get("if-none-match", "").split(",")
        if self._etag in {each.strip().removeprefix("W/") for each in asked}:
            return Response(status_code=304, headers=headers)
        if request.method == "HEAD":
            headers["content-length"] = str(len(self._content))
            return Response(headers=headers, media_type=self._type)
        return Response(self._content, headers=headers, media_type=self._type)
