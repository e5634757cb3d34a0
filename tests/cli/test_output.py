"""Standard output that takes no more: a sentence, and no traceback."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and a shell")

COMMAND = f"{sys.executable} -m headwater"
FEED = (
    b"event: snapshot\nid: p\n"
    b'data: {"logs": [{"id": "1"}, {"id": "2"}], "position": "p", "has_more": false}\n\n'
)


def shell(command):
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def feed(scripted_server):
    scripted_server.stream(FEED)
    return f"{scripted_server.url}/logs"


def test_a_full_disk_ends_a_tail_and_keeps_its_position(feed, tmp_path):
    done = shell(f"{COMMAND} tail {feed} --state {tmp_path}/state > /dev/full")
    assert done.returncode == 1
    assert done.stderr == (
        "headwater: standard output cannot be written: No space left on device\n"
    )
    assert not (tmp_path / "state").exists()


def test_a_tail_without_a_standard_output_prints_nothing(feed):
    done = shell(f"{COMMAND} tail {feed} --count 2 >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_published_is_sent_though_nobody_reads_the_ids(scripted_server):
    """``publish | head -1`` sends all of its input."""
    for number in range(1, 4):
        scripted_server.json(201, json.dumps({"ids": [f"n{number}"]}))
    lines = r'{"n": 1}\n{"n": 2}\n{"n": 3}\n'
    reader = "head -1; exec <&-"
    done = shell(
        f"printf '{lines}' | {COMMAND} publish {scripted_server.url}/logs --batch 1 | ({reader})"
    )
    assert done.stdout == "n1\n"
    assert done.stderr == "headwater: 3 published\n"
    assert len(scripted_server.seen) == 3


def test_a_publish_without_a_standard_input_has_nothing_to_send(scripted_server):
    done = shell(f"{COMMAND} publish {scripted_server.url}/logs <&-")
    assert (done.returncode, done.stderr) == (0, "headwater: 0 published\n")
