"""The package's shape: which way imports run, what the core brings along, how long files are.

A reader finds the way of the data from top to bottom, and who needs only the protocol or the feeds
is not made to install a web framework.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "headwater"

# What each part may import of the others. Every part may import itself.
CORE = {"errors", "protocol", "feeds"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "protocol": {"errors"},
    "feeds": {"errors", "protocol"},
    "sql": CORE,
    # For its engine on SQL alone; which drivers come along is asked below.
    "eventlog": {*CORE, "sql"},
    "delivery": CORE,
    "web": {*CORE, "delivery"},
    "relay": {*CORE, "eventlog", "sql"},
    "client": {"errors", "protocol"},
    "testing": {*CORE, "eventlog", "sql", "delivery", "web", "client"},
    "backend": {*CORE, "eventlog", "sql", "delivery", "web"},
    "cli": {*CORE, "eventlog", "sql", "delivery", "web", "client", "backend", "relay"},
}

MAX_LINES = 400


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """``headwater.web.fastapi`` is of the part ``web``, ``headwater`` itself of none."""
    if module == "headwater.__main__":
        return "cli"
    return module.split(".")[1] if "." in module else ""


def module_of(path: Path) -> str:
    names = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imported_by(path: Path) -> Iterator[tuple[int, str]]:
    """Each import of this package's own modules, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            if node.module == "headwater":
                # `from headwater import sql` is a module, `from headwater import Event` a name.
                for alias in node.names:
                    is_part = alias.name in ALLOWED
                    yield node.lineno, f"headwater.{alias.name}" if is_part else "headwater"
            else:
                yield node.lineno, node.module


def test_every_part_is_in_the_table():
    """A new folder must say where it stands before anything is put into it."""
    parts = {part_of(module_of(path)) for path in sources()} - {""}
    assert parts <= set(ALLOWED), parts - set(ALLOWED)


def test_the_table_has_no_circle():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {part for part, needs in ALLOWED.items() if needs <= done} - done
        assert ready, f"these import each other in a circle: {set(ALLOWED) - done}"
        done |= ready


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_run_downwards(path: Path):
    part = part_of(module_of(path))
    wrong = []
    for line, name in imported_by(path):
        if name.split(".")[0] != "headwater":
            continue
        other = part_of(name)
        if part == "":
            # The public face of the core.
            allowed = {*CORE, "delivery", "web"}
        else:
            allowed = {*ALLOWED[part], part}
        if not other and part == "cli":
            continue  # for __version__
        if other not in allowed:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {part or 'headwater'} imports {name}")
    assert not wrong, "\n".join(wrong)


def brought_along(*modules: str) -> set[str]:
    """Top-level modules beyond the standard library that importing ``modules`` loads."""
    code = (
        "import sys; before = set(sys.modules)\n"
        f"import {', '.join(modules)}\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(names - set(sys.stdlib_module_names) - {'headwater'}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "modules",
    [
        ("headwater",),
        ("headwater.errors", "headwater.protocol", "headwater.feeds", "headwater.delivery"),
        ("headwater.eventlog", "headwater.eventlog.memory", "headwater.delivery.hub"),
        ("headwater.web.asgi",),
    ],
    ids=" ".join,
)
def test_the_core_brings_no_framework_and_no_driver(modules: tuple[str, ...]):
    assert brought_along(*modules) == set()


def test_the_client_brings_no_server():
    brought = brought_along("headwater.client", "headwater.client.sync")
    assert "httpx" in brought
    assert not brought & {"fastapi", "starlette", "uvicorn", "sqlalchemy", "aiosqlite", "pydantic"}


def test_a_table_needs_no_web_framework():
    brought = brought_along("headwater.sql", "headwater.eventlog.sql")
    assert not brought & {"fastapi", "starlette", "uvicorn", "httpx", "typer"}


def test_the_framework_needs_no_database():
    brought = brought_along("headwater.web.fastapi")
    assert not brought & {"sqlalchemy", "aiosqlite", "alembic", "httpx", "typer", "uvicorn"}


def test_files_can_be_read_in_one_go():
    files = [
        path
        for folder in ("src", "benchmarks", ".ci")
        for kind in ("*.py", "*.js", "*.css", "*.html")
        for path in (ROOT / folder).rglob(kind)
        # The browser client is made from smaller files, in clients/js/src.
        if not path.is_symlink()
    ]
    lengths = {path: len(path.read_text().splitlines()) for path in files}
    long = [f"{path.relative_to(ROOT)}: {n}" for path, n in lengths.items() if n > MAX_LINES]
    assert not long, "\n".join(long)


def test_nothing_is_left_for_later():
    marks = ("TO" + "DO", "FIX" + "ME", "Not" + "ImplementedError")
    found = [
        f"{path.relative_to(ROOT)}: {mark}"
        for folder in ("src", "tests", "docs")
        for path in (ROOT / folder).rglob("*.py")
        for mark in marks
        if mark in path.read_text()
    ]
    assert not found, "\n".join(found)
