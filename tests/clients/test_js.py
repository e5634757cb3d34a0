"""The browser client: its own tests by Node, and what people get of it."""

from __future__ import annotations

import gzip
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest

import headwater.backend
from support import npm

pytestmark = pytest.mark.long

SERVED = Path(headwater.backend.__file__).parent / "console" / "headwater.js"
MODULE = npm.FOLDER / "headwater.js"
# "under 8 KB, tabs included": the whole module is one file.
SMALL = 8_000


@pytest.fixture(scope="module")
def package() -> Path:
    return npm.installed()


@pytest.mark.timeout(400)
def test_its_own_tests_pass(package: Path):
    done = npm.run("npm", "test", timeout=300)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    # Every file of tests was run.
    for file in sorted((package / "test").glob("*.test.js")):
        assert file.name in done.stdout


def test_the_module_is_what_its_sources_make(package: Path):
    """Who changes a source and forgets to build would test what nobody gets."""
    done = npm.run("npm", "run", "build", "--", "--check")
    assert done.returncode == 0, done.stderr


def test_its_types_fit_how_it_is_used(package: Path):
    done = npm.run("npm", "run", "types")
    assert done.returncode == 0, done.stdout


def test_it_is_small(package: Path):
    """Measured as ``npm run size`` does."""
    done = npm.run("npx", "esbuild", "headwater.js", "--minify", "--format=esm")
    assert done.returncode == 0, done.stderr
    assert len(gzip.compress(done.stdout.encode(), 9)) < SMALL


def test_the_backend_serves_the_same_module():
    assert SERVED.read_bytes() == MODULE.read_bytes()


def test_it_needs_no_other_module():
    assert not re.search(r"^\s*(import|export .* from)\b", MODULE.read_text(), re.MULTILINE)


def test_every_name_has_a_type():
    exported = re.search(r"export \{([^}]*)\}", MODULE.read_text())
    assert exported is not None
    types = (npm.FOLDER / "headwater.d.ts").read_text()
    for name in exported[1].replace(",", " ").split():
        assert re.search(rf"export (function|class) {name}\b", types), name


def test_the_package_has_what_it_says_and_names_no_registry():
    package = json.loads((npm.FOLDER / "package.json").read_text())
    assert package["version"] == version("headwater")
    assert "dependencies" not in package
    assert [name for name in package["files"] if not (npm.FOLDER / name).is_file()] == []
    for name in ("package.json", "package-lock.json", ".npmrc"):
        text = (npm.FOLDER / name).read_text()
        assert not re.search(r'"resolved"|registry\s*=|https?://[^"]*\.tgz', text), name
