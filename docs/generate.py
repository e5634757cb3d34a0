#!/usr/bin/env -S uv run
"""Write the generated parts of the reference anew, or ``--check`` that they are current.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; what a person
wrote around it stays. ``NAME`` is ``commands``, ``settings``, ``routes``, ``roles``, ``counters``,
``engines``, ``python MODULE``, or ``file PATH LANGUAGE`` for a file below ``docs/``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

from generated import application, commands, engines, python  # noqa: E402 - found as said above

_PART = re.compile(
    r"(<!-- generated: (?P<name>[^>]+?) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL
)

PARTS = {
    "commands": commands.commands,
    "settings": application.settings,
    "routes": application.routes,
    "roles": application.roles,
    "counters": application.counters,
    "engines": engines.engines,
}


def part(name: str) -> str:
    """The text of one generated part."""
    if name.startswith("python "):
        return python.module(name.removeprefix("python "))
    if name.startswith("file "):
        _, path, language = name.split()
        return f"```{language}\n{(DOCS / path).read_text().strip()}\n```"
    return PARTS[name]()


def written(text: str) -> str:
    """A page with its generated parts as they should be now."""
    return _PART.sub(lambda found: f"{found[1]}\n{part(found['name']).strip()}\n\n{found[4]}", text)


def stale() -> dict[Path, str]:
    """The pages that are not current, each with what it should be."""
    found = {}
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text()
        now = written(text)
        if now != text:
            found[page] = now
    return found


def main(arguments: list[str]) -> int:
    """Returns 1 when ``--check`` finds a page that is not current."""
    pages = stale()
    check = arguments == ["--check"]
    for page, text in pages.items():
        if not check:
            page.write_text(text)
        verb = "is not current: uv run tasks.py docs" if check else "written"
        sys.stdout.write(f"{page.relative_to(DOCS.parent)} {verb}\n")
    return 1 if check and pages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
