"""The page that a new contributor reads first names files and names that exist."""

from __future__ import annotations

import re

import pytest

from support.markdown import ROOT
from test_layers import ALLOWED

PACKAGE = ROOT / "src" / "headwater"
TEXT = (ROOT / "docs" / "architecture.md").read_text()

FILES = sorted(set(re.findall(r"`([\w/]+\.py)`", TEXT)))
NAMED = [
    (name, file)
    for names, file in re.findall(r"\| ((?:`[\w.]+`(?:, )?)+) in `([\w/]+\.py)` \|", TEXT)
    for name in re.findall(r"[\w.]+", names)
]


@pytest.mark.parametrize("file", FILES)
def test_files_exist(file: str):
    assert any((folder / file).exists() for folder in (PACKAGE, ROOT)), file


@pytest.mark.parametrize(("name", "file"), NAMED)
def test_names_are_where_the_word_list_says(name: str, file: str):
    code = (PACKAGE / file).read_text()
    assert re.search(rf"^\s*(class |def |async def )?{re.escape(name)}\b", code, re.MULTILINE)


def test_every_package_is_drawn():
    missing = {
        name for name in ALLOWED if not re.search(rf"^\| `{name}(/|\.py)`", TEXT, re.MULTILINE)
    }
    assert not missing
