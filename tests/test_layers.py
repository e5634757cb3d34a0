"""The package's shape: which way imports run, what is public, what the core brings along, and how
long files are.

A reader finds the way of the data from top to bottom, and who needs only the protocol or the feeds
is not made to install a web framework.
"""

from __future__ import annotations

import ast
import re
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
    "runs": {*CORE, "eventlog"},
    "delivery": CORE,
    # For the log by which processes reach each other; it brings no engine along.
    "web": {*CORE, "delivery", "eventlog", "runs"},
    "relay": {*CORE, "eventlog", "sql"},
    "client": {"errors", "protocol"},
    "adapters": {*CORE, "eventlog", "runs", "delivery", "web"},
    "testing": {*CORE, "eventlog", "sql", "runs", "delivery", "web", "client"},
    "backend": {*CORE, "eventlog", "sql", "runs", "delivery", "web"},
    "cli": {*CORE, "eventlog", "sql", "runs", "delivery", "web", "client", "backend", "relay"},
}

MAX_LINES = 400

DOCUMENTED = re.compile(r"generated: python (\S+)")


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


def test_imports_run_downwards():
    wrong = []
    for path in sources():
        part = part_of(module_of(path))
        # `headwater` itself is the public face of the core.
        allowed = {*ALLOWED[part], part} if part else {*CORE, "delivery", "web", ""}
        if part == "cli":
            allowed.add("")  # for __version__
        wrong += [
            f"{path.relative_to(ROOT)}:{line}: {part or 'headwater'} imports {name}"
            for line, name in imported_by(path)
            if name.split(".")[0] == "headwater" and part_of(name) not in allowed
        ]
    assert not wrong, "\n".join(wrong)


def modules_imported_by(path: Path, known: set[str]) -> set[str]:
    """The modules of this package that a module names, in functions and for types only too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                within = f"{node.module}.{alias.name}"
                found.add(within if within in known else node.module)
    return found & known


def circles_in(imports: dict[str, set[str]]) -> set[frozenset[str]]:
    """The largest groups of modules each of which reaches all others of its group."""
    reached: dict[str, set[str]] = {}
    for module in imports:
        seen: set[str] = set()
        ahead = [module]
        while ahead:
            for other in imports[ahead.pop()] - seen:
                seen.add(other)
                ahead.append(other)
        reached[module] = seen
    return {
        frozenset(other for other in seen if module in reached[other])
        for module, seen in reached.items()
        if module in seen
    }


def test_modules_import_each_other_in_no_circle():
    """Of two modules in a circle neither can be read, tested or moved without the other."""
    paths = {module_of(path): path for path in sources()}
    imports = {name: modules_imported_by(path, set(paths)) for name, path in paths.items()}
    assert not [sorted(circle) for circle in circles_in(imports)]


def test_circles_are_found_whole():
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a", "e"}}
    assert circles_in(imports) == {frozenset("bc"), frozenset("e")}


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
        ("headwater.eventlog", "headwater.eventlog._memory", "headwater.delivery._hub"),
        ("headwater.web.asgi",),
    ],
    ids=" ".join,
)
def test_the_core_brings_no_framework_and_no_driver(modules: tuple[str, ...]):
    assert brought_along(*modules) == set()


def test_the_command_line_brings_nothing_before_a_command_runs():
    """`headwater --help` and each command's start must not wait for what others need."""
    brought = brought_along("headwater.cli; headwater.cli.application()")
    assert "typer" in brought
    assert not brought & {"sqlalchemy", "fastapi", "starlette", "uvicorn", "httpx", "pydantic"}


def test_a_start_of_the_backend_needs_no_alembic():
    assert "alembic" not in brought_along("headwater.backend.server", "headwater.backend.schema")


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
        if not path.is_symlink() and "node_modules" not in path.parts
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


def test_a_module_is_internal_or_in_the_reference():
    """``backend`` and ``cli`` are an application, which is run; a package may be empty."""
    pages = (ROOT / "docs" / "reference" / "python").glob("*.md")
    documented = {name for page in pages for name in DOCUMENTED.findall(page.read_text())}
    public = {
        module_of(path)
        for path in sources()
        if part_of(module_of(path)) not in ("backend", "cli")
        and not any(part.startswith("_") for part in module_of(path).split("."))
        and ast.parse(path.read_text()).body[1:]
    }
    assert public <= documented
    assert len(documented) > 10
