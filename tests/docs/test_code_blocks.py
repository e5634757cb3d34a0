"""Every Python block in the documentation runs, so that a reader who copies one is not let down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.markdown import ROOT, blocks, pages, program

# What a fence may be called. A block of an unknown kind would be checked by nobody.
LANGUAGES = {
    "python", "sh", "console", "text", "json", "sql", "html", "js", "nginx", "toml", "ini", "diff",
}  # fmt: skip

WITH_PYTHON = [page for page in pages() if any(b.language == "python" for b in blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
async def test_the_blocks_of_a_page_run_one_after_another(
    page: Path, folder: Path, request: pytest.FixtureRequest
):
    if "DATABASE_URL" in page.read_text():
        request.getfixturevalue("database")
    async with program(page):
        pass


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path):
    unknown = [
        f"{block}: {block.language!r}" for block in blocks(page) if block.language not in LANGUAGES
    ]
    assert not unknown, "\n".join(unknown)


def test_json_is_json():
    wrong = []
    for page in pages():
        for block in blocks(page):
            if block.language == "json":
                try:
                    json.loads(block.code)
                except ValueError as error:
                    wrong.append(f"{block}: {error}")
    assert not wrong, "\n".join(wrong)
