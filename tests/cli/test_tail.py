"""``headwater tail`` as people and scripts run it."""

import json
import re
import signal
import subprocess
import sys
import threading

import pytest
import typer
from typer.testing import CliRunner

from headwater.cli.tail import tail
from headwater.protocol import Event, encode

app = typer.Typer()
app.command()(tail)

PAGE = {
    "logs": [{"id": "1", "level": "info"}, {"id": "2", "level": "error"}],
    "start": "p0",
    "position": "p2",
    "has_more": False,
}
SNAPSHOT = encode(Event(PAGE, event="snapshot", id="p2", retry=0))


def log(number):
    return encode(Event({"id": f"{number}", "level": "info"}, event="log", id=f"p{number}"))


def run(*arguments, **env):
    env = {"HEADWATER_TOKEN": "", **env}
    return CliRunner(env=env).invoke(app, [str(argument) for argument in arguments])


def test_items_are_printed_one_a_line_also_across_a_reconnect(scripted_server):
    scripted_server.stream(SNAPSHOT, log(3), b"id: p4\ndata: {")
    scripted_server.stream(log(4))
    done = run(f"{scripted_server.url}/api/logs?level=info")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "level=info id=1",
        "level=error id=2",
        "level=info id=3",
        "level=info id=4",
    ]
    assert "headwater: the server ended the stream; connecting again in 0." in done.stderr
    paths = {path for _, path, _, _ in scripted_server.seen}
    assert paths == {"/api/logs/stream?level=info"}
    assert scripted_server.seen[1][2]["Last-Event-ID"] == "p3"


def test_json_lines_are_for_programs(scripted_server):
    removed = encode(Event({"id": "1"}, event="log_removed", id="p4"))
    scripted_server.stream(SNAPSHOT, removed)
    done = run(f"{scripted_server.url}/api/logs/stream", "--json", "--count", 3)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        *PAGE["logs"],
        {"_removed": {"id": "1"}},
    ]


def test_a_removal_reads_as_one(scripted_server):
    scripted_server.stream(encode(Event({"id": "1"}, event="client_removed", id="p4")))
    done = run(scripted_server.url, "--count", 1)
    assert done.stdout == "removed id=1\n"


def test_options_reach_the_server_and_the_scheme_may_be_left_out(scripted_server):
    address = scripted_server.url.removeprefix("http://")
    run(f"{address}/api/logs?limit=9&q=", "--limit", 5, "--last-event-id", "p1", "--token", "key")
    [(_, path, headers, _)] = scripted_server.seen
    assert path == "/api/logs/stream?q=&limit=5"
    assert headers["Last-Event-ID"] == "p1"
    assert headers["Authorization"] == "Bearer key"


def test_the_key_may_come_from_the_environment(scripted_server):
    run(scripted_server.url, HEADWATER_TOKEN="from-env")
    assert scripted_server.seen[0][2]["Authorization"] == "Bearer from-env"


@pytest.mark.parametrize(
    ("reason", "words"), [("expired", "may be missing"), ("unknown", "starting anew"), ("x", "x")]
)
def test_a_reset_is_told_but_not_among_the_items(scripted_server, reason, words):
    scripted_server.stream(encode(Event({"reason": reason}, event="reset")), SNAPSHOT)
    done = run(scripted_server.url, "--count", 2)
    assert len(done.stdout.splitlines()) == 2
    assert words in done.stderr


def test_without_a_right_it_says_what_to_do_and_fails(scripted_server):
    scripted_server.json(401, '{"detail": "Sign in first."}')
    done = run(scripted_server.url)
    assert done.exit_code == 1
    assert done.stderr == (
        "headwater: HTTP 401: Sign in first. Give an API key with --token or HEADWATER_TOKEN.\n"
    )


def test_a_right_that_was_lost_is_a_failure(scripted_server):
    scripted_server.stream(log(1), encode(Event({"status": 403}, event="error")))
    done = run(scripted_server.url, "--token", "key")
    assert done.exit_code == 1
    assert "HTTP 403" in done.stderr


@pytest.mark.parametrize("url", ["ftp://h/logs", "http://"])
def test_an_address_that_is_none_is_one_sentence(url):
    done = run(url)
    assert done.exit_code == 1
    assert "is not an http:// or https:// address" in done.stderr
    assert "Traceback" not in done.output


def test_it_can_be_told_to_give_up(scripted_server):
    scripted_server.json(503, '{"detail": "stopping"}')
    done = run(scripted_server.url, "--give-up-after", 1)
    assert done.exit_code == 1
    assert "HTTP 503: stopping" in done.stderr


PROGRAM = "import typer; from headwater.cli.tail import tail; typer.run(tail)"


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_it_cleanly_and_tells_the_position(scripted_server):
    held = threading.Event()
    scripted_server.stream(SNAPSHOT, log(3), log(4), held)
    with start(scripted_server.url) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    held.set()
    assert lines[-1] == "level=info id=4\n"
    assert process.returncode == 0
    # p3 when the signal came between the last line and the note of it: repeated, never left out.
    assert re.fullmatch("headwater: to go on from here: --last-event-id 'p[34]'\n", errors)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells of a closed pipe in another way")
def test_a_reader_that_has_enough_ends_it_without_an_error(scripted_server):
    more = threading.Event()
    scripted_server.stream(log(1), more, *[log(number) for number in range(2, 50)])
    with start(scripted_server.url) as process:
        assert process.stdout.readline() == "level=info id=1\n"
        process.stdout.close()
        more.set()
        errors = process.stderr.read()
        assert process.wait(30) == 0
    assert errors == ""
