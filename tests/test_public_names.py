"""The package uses only documented names of other packages.

A private name can disappear in any release of its package. The few that are used stand in
``EXCEPTIONS``, each with its reason and with what Headwater does once the name is gone.

A name is private when it begins with one underscore, when it comes from a module whose name does,
or when it is in ``UNDOCUMENTED``: modules and names that have no underscore and no documentation.
"""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "headwater"

MOST = 10

# Names with an underscore that the documentation of their package describes.
DOCUMENTED = {
    # collections.namedtuple, and SQLAlchemy's Row
    *("_asdict", "_field_defaults", "_fields", "_make", "_replace", "_mapping", "_tuple", "_t"),
    # enum.Enum, os and ctypes
    *("_missing_", "_value_", "_generate_next_value_", "_exit", "_fields_", "_pack_"),
}

# Modules and names without an underscore that their package does not document.
UNDOCUMENTED = {
    "fastapi.dependencies",
    "fastapi.openapi.constants",
    "fastapi.routing.get_request_handler",
    "fastapi.routing.iter_route_contexts",
    "fastapi.routing.request_response",
    "fastapi.routing.run_endpoint_function",
    "fastapi.routing.serialize_response",
    "fastapi.utils",
    "starlette.middleware.exceptions",
    "starlette.routing.get_name",
    "starlette.routing.request_response",
    "uvicorn.protocols",
    "uvicorn.server.ServerState",
}


class Exempt(NamedTuple):
    """Why a private name is used, and what happens without it: a slower way, never an error."""

    reason: str
    without: str


# By file and name; docs/architecture.md has those that no rule here can see.
EXCEPTIONS: Mapping[tuple[str, str], Exempt] = {}


class Use(NamedTuple):
    """One place where a private name of another package is used."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"src/headwater/{self.file}:{self.line}: {self.name}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def is_undocumented(module: str) -> bool:
    """Whether a dotted name is one of ``UNDOCUMENTED`` or within one, or has a private part."""
    parts = module.split(".")
    within = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return bool(within & UNDOCUMENTED) or any(map(is_private, parts))


def own_names(tree: ast.AST) -> Iterator[str]:
    """The names with an underscore that a module of ours defines, so that it may use them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from fields_of(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.attr


def fields_of(node: ast.ClassDef) -> Iterator[str]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield line.target.id
        elif isinstance(line, ast.Assign):
            for target in line.targets:
                if isinstance(target, ast.Name):
                    yield target.id
                    if target.id == "__slots__":
                        yield from (
                            each.value
                            for each in ast.walk(line.value)
                            if isinstance(each, ast.Constant)
                        )


def imported(tree: ast.AST) -> dict[str, str]:
    """What the names that a module imports stand for: ``{"routing": "fastapi.routing"}``."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """``fastapi.routing.APIRoute`` for ``routing.APIRoute``; "" for what no import explains."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def private_uses(file: str, tree: ast.AST, own: set[str]) -> Iterator[Use]:
    """The private names of other packages in one module; ``own`` are those of our package."""
    names = imported(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ImportFrom | ast.Import):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = prefix + alias.name
                if not name.startswith(("headwater.", "__future__.")) and is_undocumented(name):
                    yield Use(file, line, name)
        elif isinstance(node, ast.Attribute):
            path = dotted(node, names)
            if path.startswith("headwater."):
                continue
            if is_private(node.attr) and node.attr not in own:
                yield Use(file, line, f".{node.attr}")
            elif path and is_undocumented(path) and not is_undocumented(path.rpartition(".")[0]):
                yield Use(file, line, path)
        elif isinstance(node, ast.Call):
            called = node.func
            by_name = called.attr if isinstance(called, ast.Attribute) else ""
            by_name = called.id if isinstance(called, ast.Name) else by_name
            if by_name in (
                "getattr",
                "setattr",
                "hasattr",
                "delattr",
                "attrgetter",
                "getattr_static",
            ):
                for given in node.args:
                    if isinstance(given, ast.Constant) and isinstance(given.value, str):
                        if any(map(is_private, given.value.split("."))):
                            yield Use(file, line, f".{given.value}")
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
            key = node.slice
            if node.value.attr == "__dict__" and isinstance(key, ast.Constant):
                if is_private(str(key.value)):
                    yield Use(file, line, f".{key.value}")


@cache
def all_uses() -> tuple[Use, ...]:
    trees = {path: ast.parse(path.read_text()) for path in sorted(SOURCES.rglob("*.py"))}
    # A name that `delivery` defines does not excuse the same name on an object in `web`.
    own: dict[str, set[str]] = collections.defaultdict(set)
    for path, tree in trees.items():
        own[path.relative_to(SOURCES).parts[0]].update(own_names(tree))
    found: list[Use] = []
    for path, tree in trees.items():
        file = path.relative_to(SOURCES)
        found += private_uses(str(file), tree, own[file.parts[0]])
    return tuple(found)


def test_only_documented_names_of_other_packages_are_used():
    """A minor release of FastAPI must not end a Headwater that works."""
    wrong = [str(use) for use in all_uses() if (use.file, use.name) not in EXCEPTIONS]
    assert not wrong, "\n".join(wrong)


def test_exceptions_are_few_and_each_is_needed():
    used = {(use.file, use.name) for use in all_uses()}
    assert len(EXCEPTIONS) <= MOST
    assert not set(EXCEPTIONS) - used, "these are exempt and used by nobody"


@pytest.mark.parametrize(
    "code",
    [
        "from fastapi.routing import _IncludedRouter",
        "from starlette import _utils",
        "from starlette._utils import get_route_path",
        "import fastapi._compat",
        "from fastapi.dependencies.utils import solve_dependencies",
        "from fastapi.dependencies import models",
        "import fastapi\nfastapi.dependencies.utils.solve_dependencies()",
        "from fastapi import routing\nrouting.get_request_handler()",
        "def f(route):\n    return route._embed_body_fields",
        "def f(route):\n    return getattr(route, '_embed_body_fields', None)",
        "def f(route):\n    return route.__dict__['_embed_body_fields']",
        "import operator\nread = operator.attrgetter('_a.b')",
    ],
)
def test_a_private_name_is_found_however_it_is_reached(code: str):
    (use,) = private_uses("x.py", ast.parse(code), set())
    assert use.file == "x.py"


@pytest.mark.parametrize(
    "code",
    [
        "from fastapi.routing import APIRoute",
        "from fastapi.encoders import jsonable_encoder",
        "def f(row):\n    return row._mapping, row._asdict()",
        "from headwater.sql._watch import Watch",
        "class A:\n    _a: int\n    def same(self, other):\n        return other._a == self._a",
    ],
)
def test_documented_and_own_names_are_free(code: str):
    tree = ast.parse(code)
    assert not list(private_uses("x.py", tree, set(own_names(tree))))
