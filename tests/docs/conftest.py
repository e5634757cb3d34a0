"""What the pages' programs find where they run: a folder of their own, and the examples."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.markdown import ROOT
from support.postgres import Postgres

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder as the present one, from which ``docs/examples`` can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = set(sys.modules)
    yield tmp_path
    # An example opens its database in the folder in which it is imported first.
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith((str(EXAMPLES), str(tmp_path))):
            del sys.modules[name]


@pytest.fixture
def database(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty PostgreSQL database, where the pages that need one look for it; its URL."""
    name = postgres.database()
    monkeypatch.setenv("DATABASE_URL", postgres.url(name))
    yield postgres.url(name)
    postgres.drop(name)
