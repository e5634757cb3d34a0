"""Servers to measure: how each is started, asked for a stream, and made to deliver."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks.fanout import machine, tools
from benchmarks.fanout.load import Load, Shot

DATA = 200


def payload(seq: int) -> str:
    """The 200 bytes of data that each of the peers sends."""
    bare = f'{{"seq":{seq},"pad":""}}'
    return f'{bare[:-2]}{"x" * (DATA - len(bare))}"}}'


class Peer(ABC):
    """One server.

    Attributes:
        name: as the tables show it.
        about: its version, once it was started.
        marker: what precedes a sequence number in its events.
        ready: what a stream has sent once it is live.
        kind: how it is triggered, ``udp`` or ``tcp``.
        base: the last sequence number that was used.
        most: with how many streams it is measured at most; more would take it minutes.
    """

    name: str
    about = ""
    marker = '"seq":'
    ready = ""
    kind = "udp"
    most: int | None = None

    def __init__(self) -> None:
        self.base = 0
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix="headwater-bench-"))
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What runs it at ``port``. Raises MissingError when something is not here."""

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PORT": str(self.port)}

    def request(self) -> bytes:
        """What asks for a stream; ``{G}`` is its group."""
        return b"GET /{G} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"

    def trigger(self, group: int, groups: int, first: int, count: int) -> bytes:
        """What makes it send ``count`` events to each stream of these groups."""
        return f"EV {group} {groups} {first} {count}".encode()

    @property
    def trigger_port(self) -> int:
        return self.port

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        assert self._process is not None
        return machine.tree(self._process.pid)

    def start(self) -> None:
        """Start it on the server's core and wait until it listens."""
        self.port = self.port or machine.free_port()
        command = self.command()
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            command,
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: machine.pin(machine.SERVER_CORE),  # noqa: PLW1509 - no thread was started
        )
        log.close()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        said = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        self.stop()
        raise tools.MissingError(f"it did not start: {said[-1] if said else 'it said nothing'}")

    def stop(self) -> None:
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self, *, kill: bool = False) -> None:
        """End its process; what it stored stays."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def aim(self, load: Load, groups: int, request: bytes | None = None) -> None:
        """Point a load generator at it."""
        load.target(
            self.port,
            request or self.request(),
            groups=groups,
            marker=self.marker,
            ready=self.ready,
            trigger=self.kind,
            trigger_port=self.trigger_port,
        )

    def shots(
        self, many: int, *, streams: int, groups: int = 1, each: int = 1, burst: int = 1
    ) -> tuple[int, list[Shot]]:
        """The last number before them, and shots that reach ``each`` groups in turn."""
        base = self.base
        turns = groups // each
        made = []
        for number in range(many):
            first = base + 1 + number // turns * burst
            data = self.trigger(number % turns * each, each, first, burst)
            made.append(Shot(data, first, burst, streams // groups * each * burst))
        self.base = base + -(-many // turns) * burst
        return base, made


class Baseline(Peer):
    name = "C, epoll, one write() per delivery"

    def command(self) -> list[str]:
        self.about = "baseline.c, cc -O2"
        return [str(tools.compiled("baseline")), str(self.port)]


class Uvicorn(Peer):
    """An application of ``apps`` under uvicorn, with uvloop and httptools."""

    def __init__(self, name: str, module: str, package: str, most: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.most = most
        self._module = module
        self._package = package

    def command(self) -> list[str]:
        python = tools.peer_python()
        versions = {name: tools.peer_version(name) for name in (self._package, "uvicorn")}
        self.about = ", ".join(f"{name} {found}" for name, found in versions.items())
        options = "--loop uvloop --http httptools --log-level error --no-access-log"
        return [
            *(str(python), "-m", "uvicorn", f"{self._module}:app", "--app-dir", str(tools.APPS)),
            *("--host", "127.0.0.1", "--port", str(self.port), "--backlog", "4096"),
            *options.split(),
        ]


class Node(Peer):
    def __init__(self, name: str, script: str, package: str) -> None:
        super().__init__()
        self.name = name
        self._script = script
        self._package = package

    def command(self) -> list[str]:
        folder = tools.node_folder()
        node = tools.run(["node", "--version"], "node").strip()
        self.about = f"{self._package} {tools.node_version(self._package)}, node {node}"
        return ["node", str(folder / self._script)]


class Nchan(Peer):
    """nchan in nginx, one worker process. It is triggered by POST requests."""

    name = "nchan (C, in nginx)"
    kind = "tcp"

    def command(self) -> list[str]:
        nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        module = next(Path("/usr/lib/nginx/modules").glob("ngx_nchan_module.so"), None)
        if nginx is None or module is None:
            raise tools.MissingError("nginx with nchan was not found: Debian's libnginx-mod-nchan")
        version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
        self.about = (
            version.strip().rpartition("/")[2] and f"nginx {version.strip().rpartition('/')[2]}"
        )
        config = self.folder / "nginx.conf"
        config.write_text(
            f"load_module {module}; daemon off; worker_processes 1; pid {self.folder}/pid;\n"
            f"error_log {self.folder}/error crit; worker_rlimit_nofile 20000;\n"
            "events { worker_connections 19000; }\n"
            "http { access_log off; nchan_shared_memory_size 256M; keepalive_requests 10000000;\n"
            f"client_body_temp_path {self.folder}; proxy_temp_path {self.folder};\n"
            f"fastcgi_temp_path {self.folder}; uwsgi_temp_path {self.folder};\n"
            f"scgi_temp_path {self.folder};\n"
            f"server {{ listen 127.0.0.1:{self.port} backlog=4096;\n"
            "location ~ ^/pub/(.+)$ { nchan_publisher; nchan_channel_id $1;\n"
            "  nchan_message_buffer_length 64; nchan_message_timeout 1m; }\n"
            "location ~ ^/(.+)$ { nchan_subscriber eventsource; nchan_channel_id $1;\n"
            "  nchan_subscriber_first_message newest; } } }\n"
        )
        return [nginx, "-p", str(self.folder), "-c", str(config)]

    def trigger(self, group: int, groups: int, first: int, count: int) -> bytes:
        head = "POST /pub/{} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n{}"
        return "".join(
            head.format(number, DATA, payload(seq))
            for number in range(group, group + groups)
            for seq in range(first, first + count)
        ).encode()


def others() -> list[Peer]:
    """All peers but the baseline and ours."""
    return [
        Nchan(),
        Node("@fastify/sse", "fastify_sse.mjs", "@fastify/sse"),
        Node("better-sse", "better_sse.mjs", "better-sse"),
        Uvicorn("plain ASGI, a queue each", "asgi_queue", "starlette"),
        Uvicorn("sse-starlette", "starlette_sse", "sse-starlette", most=5000),
        Uvicorn("FastAPI EventSourceResponse", "fastapi_native", "fastapi", most=5000),
    ]


assert len(payload(1)) == DATA
assert json.loads(payload(12))["seq"] == 12
