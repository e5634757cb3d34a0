"""Links between the pages lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.markdown import ROOT, anchors, links, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path):
    broken = []
    for line, target in links(page):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(f"{page.relative_to(ROOT)}:{line}: {target}: no such file")
        elif anchor and anchor not in anchors(file):
            broken.append(f"{page.relative_to(ROOT)}:{line}: {target}: no such heading")
    assert not broken, "\n".join(broken)


def test_every_page_can_be_reached_from_the_readme():
    """A page that nothing links to is read by nobody."""
    seen: set[Path] = set()
    next_up = [ROOT / "README.md"]
    while next_up:
        page = next_up.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        for _, target in links(page):
            if "://" not in target and not target.startswith("#"):
                next_up.append((page.parent / target.partition("#")[0]).resolve())
    lost = [str(page.relative_to(ROOT)) for page in pages() if page not in seen]
    assert not lost, lost
