"""``headwater publish`` as people and scripts run it."""

import json
import re
import socket
import subprocess
import sys
import threading

import pytest
import typer
from typer.testing import CliRunner

from headwater.cli.publish import publish

app = typer.Typer()
app.command()(publish)


def run(*arguments, input=None, **env):
    env = {"HEADWATER_TOKEN": "", **env}
    return CliRunner(env=env).invoke(app, [str(argument) for argument in arguments], input=input)


def bodies(server):
    return [json.loads(body) for _, _, _, body in server.seen]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/logs", {"entries": [{"a": 1}]}),
        ("/api/logs/stream", {"entries": [{"a": 1}]}),
        ("/api/satellites/7/metrics/", {"reports": [{"a": 1}]}),
        ("/api/satellites/7/client-activity", {"activities": [{"a": 1}]}),
        ("/api/notifications", {"a": 1}),
        ("/api/other?x=y", {"a": 1}),
    ],
)
def test_the_body_has_the_shape_that_the_route_takes(scripted_server, path, body):
    scripted_server.json(201, '{"ids": ["n1"]}')
    done = run(scripted_server.url + path, "--data", '{"a": 1}')
    assert done.exit_code == 0, done.output
    [(method, seen, headers, _)] = scripted_server.seen
    assert method == "POST"
    assert seen == path.replace("/stream", "").rstrip("/")
    assert headers["Content-Type"] == "application/json"
    assert bodies(scripted_server) == [body]
    assert done.stdout == "n1\n"
    assert done.stderr == "headwater: 1 published\n"


def test_the_shape_can_be_chosen(scripted_server):
    run(f"{scripted_server.url}/api/x", "--collection", "things", "--data", '[{"a": 1}, {"a": 2}]')
    run(f"{scripted_server.url}/api/logs", "--single", "--data", '{"a": 1}', "--data", '{"a": 2}')
    assert bodies(scripted_server) == [{"things": [{"a": 1}, {"a": 2}]}, {"a": 1}, {"a": 2}]
    done = run(scripted_server.url, "--single", "--collection", "things")
    assert done.exit_code == 2


def test_a_line_without_an_end_is_refused():
    """As of /dev/zero, or a wrong file: the memory would fill, slower and slower."""
    with open("/dev/zero", "rb") as endless:
        done = subprocess.run(
            [sys.executable, "-m", "headwater", "publish", "http://127.0.0.1:1/logs"],
            stdin=endless,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert "line 1 has more than 67108864 bytes" in done.stderr


def test_items_that_somebody_wrapped_already_are_not_wrapped_again(scripted_server):
    run(f"{scripted_server.url}/logs", "--data", '{"entries": [{"a": 1}]}')
    assert bodies(scripted_server) == [{"entries": [{"a": 1}]}]


def test_standard_input_is_read_line_by_line_and_sent_in_batches(scripted_server):
    lines = "\n".join(json.dumps({"n": number, "text": "é\r\n"}) for number in range(5))
    done = run(f"{scripted_server.url}/logs", "--batch", 2, input=f"\n{lines}")
    assert done.exit_code == 0, done.output
    assert [len(body["entries"]) for body in bodies(scripted_server)] == [2, 2, 1]
    numbers = [entry["n"] for body in bodies(scripted_server) for entry in body["entries"]]
    assert numbers == list(range(5))
    assert bodies(scripted_server)[0]["entries"][0]["text"] == "é\r\n"


def test_a_batch_is_small_enough_for_the_servers_bound(scripted_server):
    line = json.dumps({"text": "x" * 1000})
    done = run(f"{scripted_server.url}/logs", "--data", f"[{','.join([line] * 1000)}]")
    assert "1000 published" in done.stderr
    assert max(len(body) for _, _, _, body in scripted_server.seen) < 600_000


def test_what_has_come_is_sent_without_waiting_for_more(scripted_server):
    scripted_server.json(201, '{"ids": ["n1"]}')
    program = "import typer; from headwater.cli.publish import publish; typer.run(publish)"
    with subprocess.Popen(
        [sys.executable, "-c", program, f"{scripted_server.url}/logs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        process.stdin.write('{"a": 1}\n')
        process.stdin.flush()
        assert process.stdout.readline() == "n1\n"
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.mark.parametrize("line", ["{", "7", '"text"', "[1]", '{"a": NaN}', "[" * 20_000])
def test_a_line_that_is_no_object_is_named_and_nothing_of_it_is_sent(scripted_server, line):
    done = run(f"{scripted_server.url}/logs", input=f'{{"a": 1}}\n{line}\n')
    assert done.exit_code == 1
    assert "line 2" in done.stderr
    assert line[:7] in done.stderr
    assert "0 published" in done.stderr
    assert scripted_server.seen == []


def test_where_in_a_line_json_ends_is_said(scripted_server):
    done = run(f"{scripted_server.url}/logs", input='{"a": 1}\n{"a" 1}\n')
    assert done.stderr == (
        "headwater: line 2 is not JSON: Expecting ':' delimiter at character 6 of '{\"a\" 1}' "
        "(0 published before that)\n"
    )


def test_bytes_of_other_programs(scripted_server):
    """A file from Windows begins with a byte order mark and has other line ends."""
    done = run(f"{scripted_server.url}/logs", input=b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert done.exit_code == 0, done.output
    assert bodies(scripted_server) == [{"entries": [{"a": 1}, {"a": 2}]}]
    done = run(f"{scripted_server.url}/logs", input='{"a": 1}\n'.encode("utf-16"))
    assert done.stderr.startswith("headwater: line 1 is not UTF-8 text: ")


def test_a_refusal_shows_no_password_of_the_address(scripted_server):
    scripted_server.json(404, "")
    done = run(scripted_server.url.replace("//", "//ann:secret@") + "/logz", "--data", "{}")
    assert done.exit_code == 1
    assert "//ann:***@" in done.stderr
    assert "secret" not in done.stderr


def test_an_object_that_is_refused_late_is_found(scripted_server):
    scripted_server.json(201, "")
    scripted_server.json(422, '{"detail": "entries.1.level: no level"}')
    done = run(f"{scripted_server.url}/logs", "--batch", 2, "--data", "[{}, {}, {}, {}]")
    assert done.stderr == (
        f"headwater: HTTP 422 at {scripted_server.url}/logs: entries.1.level: no level "
        "(2 published before that, so entries.0 is object 3 of the input)\n"
    )


def test_a_refusal_names_the_field_and_what_was_published_before(scripted_server):
    scripted_server.json(201, "")
    scripted_server.json(
        422,
        '{"detail": "title is empty.", "errors": [{"field": "level", "detail": "no level"},'
        ' {"field": "title", "detail": "title is empty"}, 7]}',
    )
    done = run(f"{scripted_server.url}/notifications", "--data", "[{}, {}, {}]")
    assert done.exit_code == 1
    assert done.stderr == (
        f"headwater: HTTP 422 at {scripted_server.url}/notifications: title is empty.; "
        "level: no level (1 published before that)\n"
    )
    assert len(scripted_server.seen) == 2


def test_the_key_is_sent_and_a_missing_one_is_explained(scripted_server):
    run(scripted_server.url, "--data", "{}", HEADWATER_TOKEN="key")
    assert scripted_server.seen[0][2]["Authorization"] == "Bearer key"
    scripted_server.json(401, '{"detail": "Sign in first."}')
    done = run(scripted_server.url, "--data", "{}")
    assert "--token or HEADWATER_TOKEN" in done.stderr


def test_a_key_is_not_carried_to_where_a_redirect_points(scripted_server):
    scripted_server.json(307, "", Location=f"{scripted_server.url}/elsewhere")
    done = run(scripted_server.url, "--data", "{}", "--token", "key")
    assert done.exit_code == 1
    assert "/elsewhere" in done.stderr
    assert len(scripted_server.seen) == 1


def test_a_server_that_is_not_there_is_one_sentence():
    done = run("http://ann:secret@127.0.0.1:1/logs", "--data", "{}")
    assert done.exit_code == 1
    assert "http://ann:***@127.0.0.1:1/logs cannot be reached" in done.stderr
    assert "Traceback" not in done.output


class Cutting:
    """Takes a request, and cuts the first connections without a word before it answers."""

    def __init__(self, cuts):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.keys = []
        self._cuts = cuts
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join(20)
        self.listener.close()

    def _serve(self):
        for number in range(self._cuts + 1):
            connection, _ = self.listener.accept()
            with connection:
                head = connection.recv(65536)
                found = re.search(rb"(?i)idempotency-key: (.*)\r\n", head)
                self.keys.append(found[1].decode())
                if number == self._cuts:
                    connection.sendall(
                        b"HTTP/1.1 201 X\r\nConnection: close\r\n"
                        b"Content-Length: 13\r\n\r\n" + b'{"ids":["7"]}'
                    )


def test_a_request_whose_answer_was_lost_is_sent_again_with_its_key():
    with Cutting(2) as server:
        done = run(f"{server.url}/logs", "--data", "{}")
    assert done.exit_code == 0, done.output
    assert done.stdout == "7\n"
    assert len(server.keys) == 3
    assert len(set(server.keys)) == 1
    assert done.stderr.count("sending again in") == 2
    assert "sent after 2 failed attempts" in done.stderr


def test_where_keys_are_not_known_a_lost_answer_is_unknown_and_nothing_is_sent_twice():
    with Cutting(0) as server:
        done = run(f"{server.url}/other", "--data", "{}")
    assert done.exit_code == 0
    with Cutting(1) as server:
        done = run(f"{server.url}/other", "--data", "{}")
        assert done.exit_code == 1
        assert "it is not known whether the last request was carried out" in done.stderr
        assert len(server.keys) == 1
        run(f"{server.url}/other", "--data", "{}", "--idempotent")


def test_each_request_has_a_key_of_its_own(scripted_server):
    for _ in range(2):
        run(f"{scripted_server.url}/notifications", "--data", "[{}, {}]")
    assert len(keys(scripted_server)) == len(set(keys(scripted_server))) == 4


def keys(server):
    return [headers["Idempotency-Key"] for _, _, headers, _ in server.seen]


def test_a_named_run_sends_the_same_requests_with_the_same_keys_again(scripted_server):
    lines = "".join(f'{{"n": {n}}}\n' for n in range(5))
    for _ in range(2):
        arguments = ("--run", "import-7", "--batch", 2)
        done = run(f"{scripted_server.url}/logs", *arguments, input=lines)
        assert done.exit_code == 0, done.output
    half = len(scripted_server.seen) // 2
    assert bodies(scripted_server)[:half] == bodies(scripted_server)[half:]
    assert keys(scripted_server) == ["import-7/0", "import-7/2", "import-7/4"] * 2
    done = run(f"{scripted_server.url}/logs", "--run", "two words", input=lines)
    assert done.exit_code == 2


def test_a_busy_server_is_asked_again_when_it_says(scripted_server):
    scripted_server.answers.append((503, "text/plain", [b"stopping"], {"Retry-After": "0"}))
    scripted_server.answers.append((429, "text/plain", [b"slow down"], {"Retry-After": "0"}))
    scripted_server.json(201, '{"id": "7"}')
    done = run(f"{scripted_server.url}/other", "--data", "{}")
    assert done.exit_code == 0, done.output
    assert done.stdout == "7\n"
    assert "HTTP 503: stopping; sending again in" in done.stderr
    assert len(set(keys(scripted_server))) == 1


def test_it_can_be_told_to_give_up(scripted_server):
    scripted_server.answers += [(503, "text/plain", [b"no"], {"Retry-After": "0"})] * 3
    done = run(f"{scripted_server.url}/logs", "--data", "{}", "--give-up-after", 2)
    assert done.exit_code == 1
    assert "HTTP 503: no" in done.stderr
    assert len(scripted_server.seen) == 2


@pytest.mark.parametrize("status", [400, 422, 500, 501])
def test_a_request_that_will_be_refused_again_is_not_sent_again(scripted_server, status):
    scripted_server.json(status, '{"detail": "no"}')
    assert run(f"{scripted_server.url}/logs", "--data", "{}").exit_code == 1
    assert len(scripted_server.seen) == 1


@pytest.mark.parametrize("url", ["http://a..b/logs", "http://h:99999/", "http://[::1", "http://"])
def test_an_odd_address_is_one_sentence(url):
    done = run(url, "--data", "{}")
    assert done.exit_code == 1
    assert "is not an http:// or https:// address" in done.stderr
    assert len(done.stderr.splitlines()) == 1
