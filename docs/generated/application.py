"""The backend's settings, routes and roles, and what delivery counts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["app", "counters", "roles", "routes", "settings"]

_METHODS = ("get", "post", "put", "patch", "delete")


def app() -> Any:
    """The backend's application, as it is before it starts."""
    from headwater.backend.app import create_app
    from headwater.backend.settings import Settings

    return create_app(Settings(database="sqlite:///headwater.db"))


def settings() -> str:
    """Each setting with its default."""
    from headwater.backend.settings import Settings

    rows = []
    for name, field in Settings.model_fields.items():
        rows.append(
            [f"`HEADWATER_{name.upper()}`", _default(name, field.default), field.description or ""]
        )
    return _table(["variable", "default", "meaning"], rows)


def _default(name: str, default: Any) -> str:
    if name == "database":
        return "a file in your data folder"
    if default in (None, ()):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def routes() -> str:
    """Each route with what it asks for and what it is, by tag."""
    from headwater.web._guards import Guard

    application = app()
    document = application.openapi()
    guards = {
        (path, method): [each for each in dependencies if isinstance(each, Guard)]
        for path, methods, dependencies in _effective(application)
        for method in methods
    }
    parts: dict[str, list[list[str]]] = {}
    for path, operations in document["paths"].items():
        for method in _METHODS:
            operation = operations.get(method)
            if operation is None:
                continue
            tag = (operation.get("tags") or ["service"])[0]
            permissions = [
                each.permission
                for each in guards.get((path, method.upper()), ())
                if each.permission is not None
            ]
            asked = "`" + "`, `".join(permissions) + "`" if permissions else ""
            if not asked and operation.get("security"):
                asked = "a sign-in"
            about = operation.get("description") or operation.get("summary") or ""
            row = [f"`{method.upper()} {path}`", asked, " ".join(_plain(about).split())]
            parts.setdefault(tag, []).append(row)
    header = ["route", "asks for", "does"]
    return "\n\n".join(f"### {tag}\n\n{_table(header, rows)}" for tag, rows in parts.items())


def _effective(application: Any) -> Iterator[tuple[str, Iterable[str], list[Any]]]:
    """Path, methods and dependencies of each route, with what it inherits from its routers."""
    from fastapi.routing import iter_route_contexts

    for context in iter_route_contexts(application.routes):
        route: Any = context
        if getattr(route, "path_format", None):
            dependencies = list(getattr(route, "dependencies", []))
            yield route.path_format, getattr(route, "methods", None) or (), dependencies


def roles() -> str:
    """Which role has which permission."""
    from headwater.backend.roles import GLOBAL_ROLES, SATELLITE_PERMISSIONS, TEAM_ROLES

    columns = {**GLOBAL_ROLES, **TEAM_ROLES, "a satellite": SATELLITE_PERMISSIONS}
    permissions = sorted(set().union(*columns.values()))
    rows = [
        [f"`{permission}`", *("yes" if permission in column else "" for column in columns.values())]
        for permission in permissions
    ]
    header = ["permission", *(name if " " in name else f"`{name}`" for name in columns)]
    return _table(header, rows)


def counters() -> str:
    """What ``/metrics`` shows of delivery, and ``LiveRouter.stats`` in one's own application."""
    from headwater.backend.metrics import _DELIVERY

    now = {"open": "Open streams now.", "waiting": "REST requests that wait for an item now."}
    rows = [[f"`{name}`", text] for name, text in {**now, **_DELIVERY}.items()]
    return _table(["counter", "counts"], rows)


def _plain(text: str) -> str:
    return inspect.cleandoc(text).replace("``", "`").replace("|", "\\|")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
