"""The code blocks of the documentation, as a reader would run them.

The blocks of one page are one program: each continues the one before. A block whose first line is a
comment with a file's name, such as ``# app.py``, is also a part of that file.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import types
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)$")
_FILE_NAME = re.compile(r"(?:#|<!--|//)\s+(?P<name>[\w./-]+\.\w+)(?: -->)?")


@dataclass(frozen=True)
class Block:
    """One fenced block. ``line`` is the number of its first line, from 1."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    code: str

    @property
    def file_name(self) -> str | None:
        found = _FILE_NAME.fullmatch(self.code.partition("\n")[0].strip())
        return found["name"] if found else None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All pages for readers."""
    top = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
    return [*(ROOT / name for name in top), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in order."""
    found: list[Block] = []
    lines: list[str] | None = None
    info, indent, first = "", "", 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            if lines is not None:
                lines.append(line.removeprefix(indent))
        elif lines is None:
            lines, info, indent, first = [], fence["info"].strip(), fence["indent"], number + 1
        else:
            language, *words = info.split() or [""]
            code = "\n".join(lines) + "\n"
            found.append(Block(page, first, language, tuple(words), code))
            lines = None
    assert lines is None, f"{page}:{first}: a block has no end"
    return found


async def run(block: Block, namespace: dict[str, Any]) -> None:
    """Run a Python block; ``await`` may stand at its top level."""
    padded = "\n" * (block.line - 1) + block.code  # so that a traceback names the page's line
    code = compile(padded, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, namespace)
    if inspect.isawaitable(result):
        await result


def write_files(page: Path, folder: Path) -> list[str]:
    """Write the blocks that are files into ``folder``; returns the files' names."""
    parts: dict[str, list[str]] = {}
    for block in blocks(page):
        if block.file_name is not None:
            parts.setdefault(block.file_name, []).append(block.code)
    for name, codes in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(codes))
    return list(parts)


@asynccontextmanager
async def program(page: Path) -> AsyncIterator[dict[str, Any]]:
    """Run all Python blocks of a page as one program in the present folder; gives its names.

    The block's end cancels its tasks and disposes of its database engines.
    """
    before = asyncio.all_tasks()
    with _module() as namespace:
        try:
            for block in blocks(page):
                if block.language == "python":
                    await run(block, namespace)
            yield namespace
        finally:
            tasks = asyncio.all_tasks() - before
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for value in list(namespace.values()):
                if type(value).__name__ == "AsyncEngine":
                    await value.dispose()


class _module:
    """A module for the program, in which annotations of classes and functions are resolved."""

    def __enter__(self) -> dict[str, Any]:
        self._module = types.ModuleType("documented")
        sys.modules["documented"] = self._module
        return self._module.__dict__

    def __exit__(self, *_: object) -> None:
        sys.modules.pop("documented", None)


def without_ids(text: str) -> str:
    """Replace the parts of positions that differ each time: the feed's and the database's."""
    return re.sub(r"1\.[0-9a-z]{6}\.[0-9a-z]+\.", "1.feed.epoch.", text)


def links(page: Path) -> Iterator[tuple[int, str]]:
    """The targets of a page's links with their lines, without those in code."""
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            for found in re.finditer(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
                yield number, found[1]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    made: set[str] = set()
    inside = False
    for line in page.read_text().splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside and line.startswith("#"):
            text = line.lstrip("#").strip().lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            number = 0
            while (name := slug if not number else f"{slug}-{number}") in made:
                number += 1
            made.add(name)
    return made
