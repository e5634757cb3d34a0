"""Standard output that takes no more: a sentence, and no traceback."""

import json
import subprocess
import sys

import pytest

import headwater.cli
from headwater.cli import main

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


@pytest.mark.parametrize("arguments", [["--version"], ["tail", "--help"]])
def test_a_full_disk_is_one_sentence_of_every_command(arguments, monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "argv", ["headwater", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
    assert left.value.code == 1
    assert capfd.readouterr().err == (
        "Standard output cannot be written: No space left on device.\n"
    )


def test_ctrl_c_while_a_command_is_being_imported_is_no_traceback(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(headwater.cli, "application", interrupted)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130


def test_what_the_encoding_of_the_output_lacks_is_written_as_in_json(scripted_server):
    scripted_server.stream(FEED.replace(b'"1"', '"世界 \U0001f600"'.encode()))
    command = f"{COMMAND} tail {scripted_server.url}/logs --json --count 2"
    done = shell(f"PYTHONIOENCODING=ascii {command}")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[0]) == {"id": "世界 \U0001f600"}


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
