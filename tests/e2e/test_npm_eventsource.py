"""npm's ``eventsource``, the client that most of Node uses, unmodified on a feed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

# The newest major version that runs on Node 20.
PACKAGE = "eventsource@4"

FOLLOW = """
import { EventSource } from "eventsource";

const [url, key] = process.argv.slice(2);
const source = new EventSource(url, {
  fetch: (input, init) =>
    fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${key}` } }),
});
const tell = (value) => process.stdout.write(JSON.stringify(value) + "\\n");
source.addEventListener("snapshot", () => tell("snapshot"));
source.addEventListener("log", (event) => tell(JSON.parse(event.data).message));
source.addEventListener("error", () => tell(["error", source.readyState]));
"""


@pytest.fixture(scope="session")
def package(pytestconfig: pytest.Config) -> Path:
    """A folder with the package installed; kept between runs."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = pytestconfig.cache.mkdir("npm-eventsource")
    (folder / "follow.mjs").write_text(FOLLOW)
    if not (folder / "node_modules" / "eventsource").is_dir():
        npm = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", PACKAGE]
        try:
            done = subprocess.run(npm, capture_output=True, text=True, timeout=90, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm could not install {PACKAGE} within 90 s")
        if done.returncode:
            pytest.skip(f"npm could not install {PACKAGE}: {done.stderr[-300:]}")
    return folder


@pytest.fixture
def told(package: Path, served: Any) -> Iterator[Iterator[Any]]:
    """What the client tells, as it follows the log."""
    key = served.api.headers["Authorization"].removeprefix("Bearer ")
    node = subprocess.Popen(
        ["node", "follow.mjs", f"{served.address}/api/logs/stream", key],
        cwd=package,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdout is not None
    try:
        yield map(json.loads, node.stdout)
    finally:
        node.kill()
        node.wait()
        node.stdout.close()


@pytest.mark.soak
def test_it_receives_reconnects_and_resumes(told: Iterator[Any], served: Any) -> None:
    assert next(told) == "snapshot"
    served.log("one", "two")
    assert [next(told), next(told)] == ["one", "two"]
    for end in (served.stop, served.kill):
        end()
        assert next(told) == ["error", 0], "it must go on by itself (readyState 0, connecting)"
        served.insert("missed")
        served.start()
        served.log("after")
        items = (item for item in told if item != ["error", 0])
        assert [next(items), next(items)] == ["missed", "after"]
