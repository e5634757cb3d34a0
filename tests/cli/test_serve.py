"""``headwater serve``: its refusals, and as a process with one worker and with several."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from support.command import Process, refused, run, started, url_of
from support.until import waited

EMAIL, PASSWORD = "ann@example.com", "a good secret"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with one administrator."""
    path = tmp_path / "headwater.db"
    code, output = run(
        *("users", "add", EMAIL, "--role", "global_admin", "--password-stdin"),
        stdin=PASSWORD,
        HEADWATER_DATABASE=url_of(path),
        HEADWATER_ARGON2_MEMORY_KIB="8",
    )
    assert code == 0, output
    return path


def serve(path: Path, *options: str, **environment: str):
    return started("serve", "--port", "0", "--database", url_of(path), *options, **environment)


@contextmanager
def signed_in(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20) as client:
        answer = client.post("/api/auth/login", json={"email": EMAIL, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        yield client


class TestRefusals:
    """One clear sentence and exit 1, and nothing was opened."""

    def refused(self, path: Path, *options: str, **environment: str) -> str:
        where = () if "--database" in options else ("--database", url_of(path))
        return refused("serve", "--port", "0", *where, *options, **environment)

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_a_port_that_is_taken(self, workers: str, tmp_path: Path, monkeypatch):
        """Nothing was made: no database, and no folder for the default one."""
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            taken = str(listener.getsockname()[1])
            for where in (), ("--database", url_of(tmp_path / "new.db")):
                sentence = refused("serve", "--port", taken, "--workers", workers, *where)
                assert taken in sentence
                assert "--port" in sentence
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("scheme", ["oracle", "mysql"])
    def test_another_database(self, database: Path, scheme: str):
        sentence = self.refused(database, "--database", f"{scheme}://ann:secret@db/x")
        assert "sqlite:///path" in sentence
        assert "secret" not in sentence

    @pytest.mark.parametrize("url", ["kafka://:secret@h", "mqtt://h", "nonsense"])
    def test_another_event_log(self, database: Path, url: str):
        sentence = self.refused(database, "--event-log", url)
        assert "memory://" in sentence
        assert "secret" not in sentence

    def test_a_memory_log_for_several_workers(self, database: Path):
        sentence = self.refused(database, "--event-log", "memory://", HEADWATER_WORKERS="2")
        assert "--workers 1" in sentence

    def test_an_event_log_in_a_missing_folder(self, database: Path):
        url = url_of(database.parent / "nowhere" / "log.db")
        assert "does not exist" in self.refused(database, "--event-log", url)

    def test_a_newer_schema(self, database: Path):
        connection = sqlite3.connect(database)
        with connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
        assert "newer version" in self.refused(database)

    def test_a_read_only_file(self, database: Path):
        database.chmod(0o444)
        assert "read-only" in self.refused(database)

    def test_a_missing_folder(self, database: Path):
        assert "does not exist" in self.refused(database.parent / "nowhere" / "x.db")

    def test_a_setting_that_cannot_be(self, database: Path):
        sentence = self.refused(database, HEADWATER_KEEP_LOGS_DAYS="soon")
        assert sentence.startswith("HEADWATER_KEEP_LOGS_DAYS='soon'")

    def test_an_option_that_cannot_be(self, database: Path):
        assert refused("serve", "--port", "99999").startswith("--port=99999")
        assert refused("serve", "--workers", "0").startswith("--workers=0")

    def test_an_address_of_another_machine(self, database: Path):
        sentence = refused("serve", "--host", "192.0.2.1", "--database", url_of(database))
        assert "--host 192.0.2.1" in sentence


@pytest.mark.long
def test_an_empty_database_is_migrated_and_says_how_to_add_a_user(tmp_path: Path):
    path = tmp_path / "new.db"
    with serve(path) as process:
        address = process.address()
        assert "new database" in process.printed
        assert "headwater users add EMAIL --role global_admin" in process.printed
        assert httpx.get(f"{address}/readyz").status_code == 200
        assert process.end() == 0
    assert "Traceback" not in process.printed


def test_it_ends_soon_with_a_stream_open_and_logs_json(database: Path):
    with serve(database) as process, signed_in(process.address()) as client:
        with client.stream("GET", "/api/logs/stream") as stream:
            assert stream.status_code == 200
            lines = stream.iter_lines()
            assert next(lines).startswith("retry:")
            began = time.monotonic()
            assert process.end() == 0
            assert time.monotonic() - began < 15
            assert "retry: " in "\n".join(lines)
        errors = process.errors()
        assert "Traceback" not in errors
        assert all(line.startswith("{") for line in errors.splitlines()), errors
        assert PASSWORD not in errors


@pytest.mark.long
def test_a_killed_server_has_lost_nothing(database: Path):
    """What was answered with 201 is there after ``kill -9``, and a position still counts."""

    def write(client: httpx.Client, *messages: str) -> None:
        entries = [{"message": message} for message in messages]
        assert client.post("/api/logs", json={"entries": entries}).status_code == 201

    with serve(database) as process, signed_in(process.address()) as client:
        write(client, "one")
        position = client.get("/api/logs").json()["position"]
        write(client, "two", "three")
        process.end(signal.SIGKILL)
    with serve(database) as process, signed_in(process.address()) as client:
        page = client.get("/api/logs", params={"after": position}).json()
        assert [entry["message"] for entry in page["logs"]] == ["two", "three"]
        headers = {"Last-Event-ID": position}
        with client.stream("GET", "/api/logs/stream", headers=headers) as stream:
            data = [line for _, line in zip(range(8), stream.iter_lines(), strict=False)]
        assert [line.count('"message":"two"') for line in data if line.startswith("data")][0] == 1


@pytest.mark.long
class TestWorkers:
    def workers(self, process: Process) -> set[int]:
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        found = set()
        for child in path.read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):  # it ended between the two looks
                continue
            if b"spawn_main" in command and b"resource_tracker" not in command:
                found.add(int(child))
        return found

    def ready(self, address: str) -> None:
        def answers() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{address}/readyz", timeout=20).status_code == 200
            return False

        waited(answers, 60)

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
    def test_several_share_one_port_and_a_dead_one_is_replaced(self, database: Path):
        with serve(database, "--workers", "2") as process:
            address = process.address()
            self.ready(address)
            before = self.workers(process)
            assert len(before) == 2
            os.kill(min(before), signal.SIGKILL)

            def replaced() -> set[int]:
                found = self.workers(process)
                return found if len(found) == 2 and min(before) not in found else set()

            after = waited(replaced, 60)
            # Whoever answers, all workers show the same and each tells the other's news.
            with (
                signed_in(address) as client,
                client.stream("GET", "/api/logs/stream") as stream,
            ):
                lines = stream.iter_lines()
                for number in range(8):
                    with httpx.Client(base_url=address, cookies=client.cookies) as other:
                        body = {"entries": [{"message": f"n{number}"}]}
                        assert other.post("/api/logs", json=body, timeout=20).status_code == 201
                    while f'"n{number}"' not in next(lines):
                        pass
            assert process.end() == 0
            for worker in after:
                assert not Path(f"/proc/{worker}").exists()

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
    def test_workers_end_when_their_parent_was_killed(self, database: Path):
        with serve(database, "--workers", "2") as process:
            self.ready(process.address())
            workers = self.workers(process)
            process.end(signal.SIGKILL)
            waited(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 30)


@pytest.mark.long
@pytest.mark.parametrize(
    ("host", "options", "says"),
    [
        ("127.0.0.1", {}, []),
        ("0.0.0.0", {}, ["0.0.0.0", "TLS", "SECURE_COOKIES=true", "ALLOWED_HOSTS"]),
        ("0.0.0.0", {"HEADWATER_SECURE_COOKIES": "true"}, ["TLS", "ALLOWED_HOSTS."]),
    ],
)
def test_a_server_that_others_reach_says_so(database: Path, host, options, says):
    """In plain HTTP, passwords can be read on the way."""
    with serve(database, "--host", host, **options) as process:
        process.address()
        lines = [line for line in process.errors().splitlines() if line.startswith("Warning")]
        assert len(lines) == bool(says)
        assert all(word in lines[0] for word in says)


@pytest.mark.long
def test_silent_connections_leave_room_for_those_that_ask(database: Path):
    """They are more than the process has file descriptors, and come faster than they are closed."""
    with serve(database) as process, ExitStack() as stack:
        address = process.address()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (200, 200))
        port = int(address.rpartition(":")[2])
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        for _ in range(5):
            assert httpx.get(f"{address}/healthz", timeout=20).status_code == 200
            with signed_in(address) as client:
                assert client.get("/api/users/me").status_code == 200
        # 32 are kept for the database and files, of which some are in use.
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 190
        text = httpx.get(f"{address}/metrics", timeout=20).text
        assert 'headwater_connections_refused_total{reason="made_room"}' in text
