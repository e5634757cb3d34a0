"""``headwater publish`` and ``headwater tail`` while the server and they themselves are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
from serving import HEADWATER, Server

pytestmark = pytest.mark.long

LINES = 40


def lines(count: int) -> list[str]:
    return [json.dumps({"message": f"line {number}"}) + "\n" for number in range(count)]


def messages(server: Server) -> list[str]:
    page = server.api.get("/api/logs", params={"limit": 100})
    return [entry["message"] for entry in page.json()["logs"]]


def command(server: Server, name: str, *options: str, **streams: int) -> subprocess.Popen[str]:
    key = server.api.headers["Authorization"].removeprefix("Bearer ")
    return subprocess.Popen(
        [HEADWATER, name, f"{server.address}/api/logs", *options],
        env={**os.environ, "HEADWATER_TOKEN": key},
        text=True,
        **streams,
    )


def publish_over_kills(server: Server, kills: int, seed: int) -> None:
    """Lines come one by one; the server is killed at random ones, also in the middle of a write."""
    rng = random.Random(seed)
    at = set(rng.sample(range(1, LINES), kills))
    pipe = subprocess.PIPE
    with command(server, "publish", stdin=pipe, stdout=pipe, stderr=pipe) as publishing:
        assert publishing.stdin is not None
        for number, line in enumerate(lines(LINES)):
            publishing.stdin.write(line)
            publishing.stdin.flush()
            if number == 0:
                # The first one must have reached it: an address where nobody is is an error.
                assert publishing.stdout is not None
                first = publishing.stdout.readline()
            if number in at:
                server.kill()
                server.start()
        printed, said = publishing.communicate(timeout=100)
    assert publishing.returncode == 0, said
    ids = [first.strip(), *printed.split()]
    page = server.api.get("/api/logs", params={"limit": 100}).json()["logs"]
    assert messages(server) == [f"line {number}" for number in range(LINES)]
    assert [entry["id"] for entry in page] == ids
    assert said.splitlines()[-1] == f"headwater: {LINES} published"


def test_each_line_arrives_once_while_the_server_is_killed(served: Server):
    publish_over_kills(served, 2, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_each_line_arrives_once_over_ten_kills(served: Server, seed: int):
    publish_over_kills(served, 10, seed)


def test_a_named_run_that_was_killed_is_run_again_and_each_line_arrives_once(
    served: Server, tmp_path: Path
):
    source = tmp_path / "lines.jsonl"
    source.write_text("".join(lines(LINES)))
    options = ("--run", "import-1", "--batch", "1")
    with source.open() as stdin:
        with command(served, "publish", *options, stdin=stdin, stdout=subprocess.PIPE) as first:
            assert first.stdout is not None
            for _ in range(5):
                first.stdout.readline()
            first.kill()
    with source.open() as stdin:
        with command(served, "publish", *options, stdin=stdin, stdout=subprocess.PIPE) as again:
            ids = again.communicate(timeout=60)[0].split()
    assert again.returncode == 0
    assert len(ids) == LINES
    assert messages(served) == [f"line {number}" for number in range(LINES)]


def test_tail_goes_on_over_restarts_of_both_sides(served: Server, tmp_path: Path):
    state, shown = tmp_path / "position", []
    for part in range(3):
        entries = [{"message": f"line {part * 10 + number}"} for number in range(10)]
        options = ("--json", "--state", str(state), "--limit", "100")
        with command(served, "tail", *options, stdout=subprocess.PIPE) as tail:
            assert tail.stdout is not None
            if part == 0:
                served.post("/api/logs", {"entries": entries})
            else:
                # While nobody followed, and then while somebody does.
                shown.append(json.loads(tail.stdout.readline())["message"])
                served.kill()
                served.start()
                served.post("/api/logs", {"entries": entries[1:]})
            while not shown or shown[-1] != entries[-1]["message"]:
                shown.append(json.loads(tail.stdout.readline())["message"])
            # Not SIGINT, which a shell lets its background jobs ignore.
            tail.send_signal(signal.SIGTERM)
            assert tail.wait(30) == 0
        following = {"message": f"line {part * 10 + 10}"}
        served.post("/api/logs", {"entries": [following]})
    assert shown == [f"line {number}" for number in range(30)]
