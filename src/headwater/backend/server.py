"""The server: uvicorn, built in one place, in this process or in several on one socket."""

from __future__ import annotations

import errno
import gc
import ipaddress
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType

import uvicorn
from fastapi import FastAPI

from headwater.backend.app import create_app
from headwater.backend.database import StartupError
from headwater.backend.logging import set_up_logging
from headwater.backend.settings import Settings
from headwater.web._addresses import Proxies
from headwater.web.fastapi import LiveRouter
from headwater.web.uvicorn import Limits, Protocol

logger = logging.getLogger("headwater.backend")

# Milliseconds after which the kernel drops a peer that acknowledges nothing.
_USER_TIMEOUT = 30_000
# Common proxies keep idle connections for 60 s. This server keeps them longer, so that it never
# closes one while a request is on its way.
_KEEP_ALIVE = 65
# A worker that still runs so many seconds after HEADWATER_SHUTDOWN_SECONDS is killed.
_GRACE = 5.0
# The signals that end the server.
_ENDS = (signal.SIGINT, signal.SIGTERM)
# Seconds. A worker that ended sooner is replaced only after a pause of this length.
_SHORT_LIFE = 2.0


def greet(greeting: str) -> None:
    """Print the lines that `serve` and `demo` show once they serve."""
    print(greeting, flush=True)  # noqa: T201 - it is for the terminal


class Server(uvicorn.Server):
    """A uvicorn server that ends open streams first, and exits with 0 after SIGTERM or SIGINT.

    Attributes:
        on_started: called once it listens and handles signals.
    """

    def __init__(self, live: LiveRouter, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.on_started: Callable[[], object] = lambda: None
        self._live = live

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Before the socket listens: this takes a while, and clients would wait meanwhile.
        _spare_the_collector()
        try:
            await super().startup(sockets)
        except OSError as error:
            # Another program has begun to listen there since `bind`.
            logger.error("cannot listen: %s", error)
            await self.lifespan.shutdown()
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        if self.started:
            self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Open streams end one after another. Meanwhile a new one gets a `retry:` and its end.
        await self._live.drain()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn raises the signal again at the end, which makes an orderly end look like a crash.
        before = {number: signal.signal(number, self.handle_exit) for number in _ENDS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _spare_the_collector() -> None:
    # The cyclic collector traverses all live objects again and again while streams open, which
    # took a third of the time. Objects from before the start never become garbage.
    gc.collect()
    gc.freeze()
    # Requests leave few cycles behind. A full collection runs after a million new objects, which
    # bounds the garbage: 22,000 requests whose clients leave take no more memory than the first few
    # thousand (tests/e2e/test_siege.py). The smaller ones run often enough to be short: beside
    # 5,000 hostile connections 2 ms and 12 ms at the median. With 10,000 they took 10 and 54 ms,
    # and as much processor time.
    gc.set_threshold(2_000, 10, 50)


def build_server(settings: Settings, app: FastAPI) -> Server:
    """The server of one process, for sockets from ``bind``."""

    class Bounded(Protocol):
        limits = Limits(
            head_bytes=settings.max_head_bytes,
            head_lines=settings.max_head_lines,
            head_seconds=settings.head_seconds,
            body_seconds=settings.body_seconds,
            body_rate=settings.body_rate,
            connections=settings.max_connections,
            connections_per_address=settings.max_connections_per_address,
            reserve=settings.reserved_descriptors,
            unread_bytes=settings.max_unread_bytes,
        )
        counters = app.state.measures.connections

    return Server(
        app.state.live,
        uvicorn.Config(
            app,
            http=Bounded,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=True,
            forwarded_allow_ips=Proxies(settings.proxy_addresses).listed,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=settings.shutdown_seconds,
        ),
    )


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound, and does not listen yet. Raises StartupError.

    The server listens once it is ready. If it did earlier, clients would wait in the kernel and
    then all be served at once, and a proxy would wait instead of asking another server.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartupError(f"--host {host} is not an address of this machine: {error}.") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit this option.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)
    try:
        # This fails when another program listens there.
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise StartupError(_explained(host, port, error)) from error
    listener.set_inheritable(True)
    return listener


def _explained(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} at {host} is in use: choose another with --port."
    if error.errno == errno.EACCES:
        return f"This user may not listen on port {port}: choose another with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine."
    return f"Port {port} at {host} cannot be used: {error.strerror or error}."


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches a socket that listens."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def address_of(listener: socket.socket) -> str:
    """The address of a bound socket, as a browser takes it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - shown, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_worker(
    settings: Settings, listener: socket.socket, on_started: Callable[[], object]
) -> None:
    """Serve in this process until a signal ends it, or until its supervisor has ended."""
    set_up_logging(settings.log_level, settings.log_format)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()
    server = build_server(settings, create_app(settings))
    server.on_started = on_started
    server.run(sockets=[listener])


def _end_after(supervisor: int) -> None:
    wait([supervisor])
    os.kill(os.getpid(), signal.SIGTERM)


class Supervisor:
    """Several workers on one socket. Starts them, replaces those that died, ends them together."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._workers: dict[SpawnProcess, float] = {}
        # Each worker sends a message once it serves.
        self._started, self._starts = multiprocessing.Pipe(duplex=False)
        self._ending = False
        self._failed = False

    def run(self, greeting: str) -> int:
        """Run until SIGTERM or SIGINT. Returns the exit code: 1 when the workers cannot start."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        for number in _ENDS:
            signal.signal(number, self._end)
        for _ in range(self._settings.workers):
            self._start()
        greeted = False
        while self._workers and not self._ending:
            sentinels = [worker.sentinel for worker in self._workers]
            ready = wait([*sentinels, reader, self._started])
            if reader in ready:
                reader.recv(4096)
            if self._started in ready:
                self._started.recv()
                if not greeted:
                    greet(greeting)
                greeted = True
            self._replace_dead()
        self._stop_all()
        return 1 if self._failed else 0

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True

    def _start(self) -> None:
        worker = multiprocessing.get_context("spawn").Process(
            target=run_worker,
            args=(self._settings, self._listener, partial(self._starts.send, None)),
        )
        worker.start()
        self._workers[worker] = time.monotonic()

    def _replace_dead(self) -> None:
        for worker, since in tuple(self._workers.items()):
            if worker.is_alive() or self._ending:
                continue
            worker.join()
            del self._workers[worker]
            if worker.exitcode == uvicorn.config.STARTUP_FAILURE:
                # The next one would fail in the same way.
                logger.error("worker %s cannot start; ending", worker.pid)
                self._failed = self._ending = True
                return
            logger.warning("worker %s ended with %s; starting another", worker.pid, worker.exitcode)
            if time.monotonic() - since < _SHORT_LIFE:
                time.sleep(_SHORT_LIFE)
            if not self._ending:
                self._start()

    def _stop_all(self) -> None:
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + self._settings.shutdown_seconds + _GRACE
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                logger.error("worker %s does not end; killing it", worker.pid)
                worker.kill()
                worker.join()
