"""What is served beside the API: the console, the reference, and only their own files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import headwater.backend
from support.backend import World

FOLDER = Path(headwater.backend.__file__).parent


@pytest.mark.parametrize("path", ["/", "/index.html", "/docs", "/main.js", "/docs/main.js"])
async def test_a_page_and_its_files(world: World, path: str):
    answer = await world.anyone.get(path)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
    kind = "javascript" if path.endswith(".js") else "html"
    assert kind in answer.headers["content-type"]
    head = await world.anyone.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))
    again = await world.anyone.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


async def test_nothing_inline_and_nothing_from_elsewhere(world: World):
    answer = await world.anyone.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    for path in (FOLDER / "reference").rglob("*"):
        text = path.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org)", text), path
        if path.suffix == ".html":
            assert "<style" not in text
            assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", text)


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_has_all_the_colours_that_it_uses(world: World, path: str):
    """A variable that no style sheet of the page sets leaves it without a colour."""
    page = (await world.anyone.get(path)).text
    sheets = re.findall(r'<link rel="stylesheet" href="\.(/[^"]+)"', page)
    styles = "".join([(await world.anyone.get(sheet)).text for sheet in sheets])
    used = set(re.findall(r"var\((--[\w-]+)\)", styles))
    assert used
    assert used <= set(re.findall(r"(--[\w-]+):", styles))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/../settings.py", 404),
        ("GET", "/%2e%2e/settings.py", 404),
        ("GET", "/docs/../settings.py", 404),
        ("GET", "/style", 404),
        ("GET", "/api/nothing", 404),
        ("POST", "/api/nothing", 404),
        ("DELETE", "/api/logs", 405),
        ("POST", "/", 405),
        ("POST", "/docs", 405),
    ],
)
async def test_what_is_not_there(world: World, method: str, path: str, status: int):
    answer = await world.anyone.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_description_of_the_api(world: World):
    document = (await world.anyone.get("/openapi.json")).json()
    assert document["openapi"] == "3.2.0"
    open_to_all = {
        f"{method} {path}"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if not operation.get("security")
    }
    assert open_to_all == {
        "post /api/auth/login",
        "get /api/auth/session",
        "get /healthz",
        "get /readyz",
        "get /metrics",
    }
    schemes = document["components"]["securitySchemes"]
    assert schemes["session"]["in"] == "cookie"
    assert schemes["api_key"]["scheme"] == "bearer"
    for path, item in document["paths"].items():
        assert path.startswith("/api/") or path in {"/healthz", "/readyz", "/metrics"}
        for operation in item.values():
            assert operation["summary"]
            assert operation["description"]


def test_the_convention_holds():
    from headwater.backend.asgi import app
    from headwater.web.convention import breaches, pairs

    assert breaches(app) == []
    assert len(pairs(app)) == 8
