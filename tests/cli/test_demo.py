"""``headwater demo``: what a newcomer sees in the first minute."""

from __future__ import annotations

import json
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.command import Process, refused, started

pytestmark = pytest.mark.long

FEEDS = ("logs", "notifications", "team", "metrics", "activity")


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[Process, str]]:
    with started("demo", "--port", "0") as process:
        address = process.address()
        process.until("Ctrl-C")
        yield process, address


@contextmanager
def signed_in(address: str, name: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=30) as client:
        body = {"email": f"{name}@example.com", "password": name}
        assert client.post("/api/auth/login", json=body).status_code == 200
        yield client


def paths(client: httpx.Client) -> dict[str, str]:
    [team, _] = client.get("/api/users/me/teams").json()["teams"]
    satellites = client.get("/api/satellites").json()["satellites"]
    assert len(satellites) == 3
    return {
        "logs": "/api/logs",
        "notifications": "/api/notifications",
        "team": f"/api/teams/{team['id']}/notifications",
        "metrics": f"/api/satellites/{satellites[0]['id']}/metrics",
        "activity": f"/api/users/me/mcp/client-activity?team_id={team['id']}",
    }


def test_it_prints_where_it_is_and_how_to_get_in(demo: tuple[Process, str]):
    process, address = demo
    for word in (address, "demo@example.com / demo", "admin@example.com / admin", "curl"):
        assert word in process.printed


def test_the_page_is_there(demo: tuple[Process, str]):
    assert "<title>Headwater</title>" in httpx.get(demo[1]).text


@pytest.mark.parametrize("name", ["demo", "admin"])
@pytest.mark.parametrize("feed", FEEDS)
def test_each_feed_has_a_past_and_goes_on(demo: tuple[Process, str], feed: str, name: str):
    """A page with nothing on it shows nothing of what this is for."""
    with signed_in(demo[1], name) as client:
        path = paths(client)[feed]
        page = client.get(path, params={"limit": 100} if "?" not in path else None).json()
        items = next(iter(page.values()))
        assert len(items) >= {"logs": 100, "metrics": 100, "activity": 1}.get(feed, 4)
        if feed == "team":
            return  # one team alone is told something only every half a minute
        before, mark, query = path.partition("?")
        resume = {"Last-Event-ID": page["position"]}
        with client.stream("GET", f"{before}/stream{mark}{query}", headers=resume) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    assert json.loads(line[5:])["id"]
                    break


def test_the_user_is_no_administrator(demo: tuple[Process, str]):
    with signed_in(demo[1], "demo") as client:
        assert client.get("/api/users").status_code == 403
    with signed_in(demo[1], "admin") as client:
        assert len(client.get("/api/users").json()["users"]) == 4


def test_a_port_that_is_taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        sentence = refused("demo", "--port", port)
    assert port in sentence
    assert "--port" in sentence


def test_it_ends_at_once_and_leaves_nothing_behind(tmp_path: Path):
    with started("demo", "--port", "0", TMPDIR=str(tmp_path)) as process:
        process.address()
        process.until("Ctrl-C")
        assert list(tmp_path.iterdir())
        assert process.end(signal.SIGINT, within=10) == 0
        assert "Traceback" not in process.errors()
    assert list(tmp_path.iterdir()) == []
    assert Path(tempfile.gettempdir()) != tmp_path
