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
    (_, path, headers, _), *_ = scripted_server.seen
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
        f"headwater: HTTP 401 at {scripted_server.url}/stream: Sign in first. "
        "Give an API key with --token or HEADWATER_TOKEN.\n"
    )


def test_a_key_that_is_wrong_is_not_asked_for_again(scripted_server):
    scripted_server.json(401, '{"detail": "Sign in first."}')
    said = run(scripted_server.url, "--token", "old").stderr
    assert said.endswith("The API key of --token or HEADWATER_TOKEN was not accepted.\n")


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
    assert f"HTTP 503 at {scripted_server.url}/stream: stopping" in done.stderr


def test_a_filter_shows_some_items_and_count_counts_those(scripted_server):
    scripted_server.stream(SNAPSHOT, log(3), log(4))
    done = run(scripted_server.url, "--filter", "level=info", "--filter", "id>=2", "--count", 2)
    assert done.stdout.splitlines() == ["level=info id=3", "level=info id=4"]


def test_a_filter_that_is_none_is_a_wrong_argument(scripted_server):
    done = run(scripted_server.url, "--filter", "level")
    assert done.exit_code == 2
    assert "level=error" in done.stderr
    assert scripted_server.seen == []


def page(start, position, has_more, *items):
    body = {"logs": items, "start": start, "position": position, "has_more": has_more}
    return json.dumps(body)


def at(minute, **more):
    return {"id": f"{minute}", "at": f"2026-01-01T00:{minute:02}:00Z", **more}


def test_since_goes_back_page_by_page_and_then_forward_from_there(scripted_server):
    scripted_server.json(200, page("s9", "p9", True, at(8), at(9)))
    scripted_server.json(200, page("s7", "p7", True, at(5), at(6), at(7)))
    scripted_server.stream(encode(Event(at(8), event="log", id="p8")))
    done = run(
        f"{scripted_server.url}/api/logs?level=info",
        *("--since", "2026-01-01T00:06:00Z", "--token", "key"),
    )
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["id=6", "id=7", "id=8"]
    assert [path for _, path, _, _ in scripted_server.seen][:3] == [
        "/api/logs?level=info&limit=100",
        "/api/logs?level=info&limit=100&before=s9",
        "/api/logs/stream?level=info",
    ]
    assert {headers["Authorization"] for _, _, headers, _ in scripted_server.seen} == {"Bearer key"}
    assert scripted_server.seen[2][2]["Last-Event-ID"] == "p7"


def test_since_shows_all_of_a_feed_that_is_younger_and_nothing_of_an_empty_one(scripted_server):
    scripted_server.json(200, page("s1", "p1", False, at(1)))
    assert len(run(scripted_server.url, "--since", "2020-01-01").stdout.splitlines()) == 1
    scripted_server.json(200, page(None, "p0", False))
    assert run(scripted_server.url, "--since", "1h").stdout == ""
    *_, (_, _, headers, _), _ = scripted_server.seen
    assert headers["Last-Event-ID"] == "p0"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, page("s", "p", False, {"id": "1"}), "--since works for items with a time"),
        (200, "[]", "a snapshot must hold"),
        (403, '{"detail": "no"}', ": no"),
    ],
)
def test_since_where_that_cannot_be_is_one_sentence(scripted_server, status, body, words):
    scripted_server.json(status, body)
    done = run(scripted_server.url, "--since", "1h")
    assert done.exit_code == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [["--since", "soon"], ["--since", "1h", "--limit", "5"], ["--since", "999999999d"]],
)
def test_a_since_that_cannot_be_is_a_wrong_argument(scripted_server, arguments):
    assert run(scripted_server.url, *arguments).exit_code == 2
    assert scripted_server.seen == []


def test_a_state_file_lets_the_next_start_go_on_where_this_one_was(scripted_server, tmp_path):
    state = tmp_path / "tail.position"
    scripted_server.stream(SNAPSHOT, log(3))
    assert run(scripted_server.url, "--state", state, "--count", 3).exit_code == 0
    assert state.read_text() == "p3\n"
    scripted_server.stream(log(4))
    done = run(scripted_server.url, "--state", state, "--since", "1h")
    assert done.stdout == "level=info id=4\n"
    assert scripted_server.seen[1][2]["Last-Event-ID"] == "p3"
    assert state.read_text() == "p4\n"


def test_to_stop_within_a_snapshot_keeps_no_position_behind_it(scripted_server, tmp_path):
    state = tmp_path / "tail.position"
    scripted_server.stream(SNAPSHOT)
    done = run(scripted_server.url, "--state", state, "--count", 1)
    assert done.stdout == "level=info id=1\n"
    assert not state.exists()


def test_a_state_file_that_cannot_be_is_one_sentence(scripted_server, tmp_path):
    done = run(scripted_server.url, "--state", tmp_path)
    assert done.exit_code == 1
    assert "position file" in done.stderr
    assert scripted_server.seen == []


def test_it_says_when_it_is_connected_again(scripted_server):
    scripted_server.stream(SNAPSHOT)
    scripted_server.stream(log(3))
    done = run(scripted_server.url, "--json")
    said = done.stderr.splitlines()
    assert "connecting again in" in said[0]
    assert re.fullmatch(r"headwater: connected again after [0-9.]+ s", said[1])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals like these")
@pytest.mark.parametrize("no_colour", ["", "1"])
def test_on_a_terminal_a_line_has_the_colour_of_its_level(scripted_server, no_colour):
    import os
    import pty

    scripted_server.stream(SNAPSHOT)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_colour}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, scripted_server.url, "--count", "2"],
        stdout=theirs,
        env=environment,
    ) as process:
        assert process.wait(30) == 0
    os.close(theirs)
    printed = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    error = "level=error id=2"
    assert printed == ["level=info id=1", error if no_colour else f"\x1b[31m{error}\x1b[0m"]


# A shell lets its background jobs ignore SIGINT, and these tests may be one.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import typer
from headwater.cli.tail import tail
typer.run(tail)
"""


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals for one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_and_its_position_is_said(scripted_server, number):
    held = threading.Event()
    scripted_server.stream(SNAPSHOT, log(3), log(4), held)
    with start(scripted_server.url) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    held.set()
    assert lines[-1] == "level=info id=4\n"
    assert process.returncode == 0
    assert errors == "headwater: to continue from here: --last-event-id 'p4'\n"


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


STATE = encode(Event({"id": "7", "state": "running"}, event="run", retry=0))


def event(name, data, position):
    return encode(Event(data, event=name, id=position))


def delta(text, position):
    return event("delta", {"text": text}, position)


@pytest.mark.parametrize(
    ("state", "code"), [("done", 0), ("failed", 3), ("cancelled", 4), ("lost", 5)]
)
def test_a_run_is_printed_as_it_comes_and_the_exit_code_says_how_it_ended(
    scripted_server, state, code
):
    scripted_server.stream(STATE, delta("Hello ", "p1"), delta("wor", "p2"), b"id: p3\ndata: {")
    scripted_server.stream(
        delta("ld\x1b[2J.", "p3"),
        event("progress", {"percent": 50}, "p4"),
        event("rows", 7, "p5"),
        delta("More.", "p6"),
        event("end", {"state": state}, "p7"),
    )
    done = run(f"{scripted_server.url}/answers/7")
    assert done.exit_code == code, done.output
    assert done.stdout == "Hello world\\u001b[2J.\nprogress percent=50\nrows 7\nMore.\n"
    assert ("the run is" in done.stderr) == (state != "done")
    assert scripted_server.seen[1][2]["Last-Event-ID"] == "p2"


@pytest.mark.parametrize(
    ("name", "data", "member"),
    [("delta", 7, "text"), ("delta", {}, "text"), ("end", {}, "state"), ("run", [], "state")],
)
def test_what_no_run_sends_is_one_sentence(scripted_server, name, data, member):
    scripted_server.stream(STATE, event(name, data, "p1"))
    done = run(f"{scripted_server.url}/answers/7")
    assert done.exit_code == 1
    assert (
        f"the data of a '{name}' event is not a JSON object with a text '{member}'" in done.stderr
    )


def test_an_event_of_a_run_that_is_not_json_is_one_sentence(scripted_server):
    scripted_server.stream(STATE, b"event: rows\ndata: {\n\n")
    done = run(f"{scripted_server.url}/answers/7")
    assert done.exit_code == 1
    assert "the data of a 'rows' event is not JSON" in done.stderr


def test_a_server_sends_no_commands_to_the_terminal(scripted_server):
    scripted_server.json(403, '{"detail": "no\\u001b[2J\\u0007"}')
    done = run(scripted_server.url)
    assert done.exit_code == 1
    assert "no\\u001b[2J\\u0007" in done.stderr


def test_a_run_in_json_is_one_event_a_line(scripted_server):
    scripted_server.stream(STATE, delta("Hi", "p1"), event("end", {"state": "done"}, "p2"))
    done = run(f"{scripted_server.url}/answers/7", "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"event": "run", "data": {"id": "7", "state": "running"}},
        {"event": "delta", "data": {"text": "Hi"}},
        {"event": "end", "data": {"state": "done"}},
    ]


def test_a_second_attempt_of_a_run_says_that_its_output_begins_again(scripted_server):
    scripted_server.stream(
        STATE,
        delta("void", "p1"),
        event("restart", {"attempt": 2}, "p2"),
        delta("valid", "p3"),
        event("end", {"state": "done"}, "p4"),
    )
    done = run(f"{scripted_server.url}/answers/7")
    assert done.stdout == "void\nvalid\n"
    assert "begins again" in done.stderr


def test_a_run_is_resumed_within_its_text(scripted_server):
    scripted_server.stream(delta("rest", "p2"), event("end", {"state": "failed"}, "p3"))
    done = run(f"{scripted_server.url}/answers/7", "--last-event-id", "p1")
    assert (done.exit_code, done.stdout) == (3, "rest\n")


def test_a_feed_of_runs_is_a_feed(scripted_server):
    page = {"runs": [], "start": "p0", "position": "p0", "has_more": False}
    item = encode(Event({"id": "7", "state": "failed"}, event="run", id="p1"))
    scripted_server.stream(encode(Event(page, event="snapshot", id="p0", retry=0)), item)
    done = run(f"{scripted_server.url}/answers", "--count", 1)
    assert (done.exit_code, done.stdout) == (0, "state=failed id=7\n")


def test_a_run_whose_end_was_shown_before_is_asked_how_it_ended(scripted_server):
    """A script that is started again with the same --state file."""
    scripted_server.answers.append((204, "", []))
    scripted_server.json(200, '{"id": "7", "state": "failed"}')
    assert run(f"{scripted_server.url}/answers/7", "--last-event-id", "p9").exit_code == 3
