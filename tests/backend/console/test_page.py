"""The console's files: what the content security policy and an installed wheel need of them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import headwater.backend

FOLDER = Path(headwater.backend.__file__).parent / "console"
FILES = sorted(
    path for path in FOLDER.rglob("*") if path.suffix in {".html", ".css", ".js", ".svg"}
)
IMPORT = re.compile(r"""(?:\bfrom |\bimport |new URL\()"([^"]+)\"""")


class Links(HTMLParser):
    """What a page loads, and what the policy ``default-src 'self'`` would keep from running."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


def test_the_page_loads_only_its_own_files() -> None:
    """A policy that forbids everything else must not break it, nor a machine without internet."""
    links = Links()
    links.feed((FOLDER / "index.html").read_text())
    assert links.inline == []
    files = {address for address in links.addresses if not address.startswith("#")}
    assert "./main.js" in files
    assert [address for address in files if not (FOLDER / address).is_file()] == []


def test_every_module_that_is_imported_exists() -> None:
    """There is no build step that would notice."""
    for path in FILES:
        if path.suffix == ".js":
            for target in IMPORT.findall(path.read_text()):
                assert target.startswith("."), f"{path.name} imports {target}"
                assert (path.parent / target).is_file(), f"{path.name} imports {target}"


def test_nothing_is_loaded_from_elsewhere() -> None:
    allowed = {"http://www.w3.org/2000/svg"}
    for path in FILES:
        found = set(re.findall(r"https?://(?!localhost)[^\s\"')]+", path.read_text()))
        assert found <= allowed, path.name


def test_style_is_never_set_as_text() -> None:
    """The policy would drop it without a word; properties of ``element.style`` are allowed."""
    for path in FILES:
        assert 'setAttribute("style"' not in path.read_text(), path.name
        assert "innerHTML" not in path.read_text(), f"{path.name}: items are text, never markup"
