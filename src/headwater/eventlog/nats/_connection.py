"""The one connection of a process to NATS, for requests and for pushes."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog._home import Home

NAME = "event log (nats)"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Seconds that an answer may take, or the opening of a connection.
PATIENCE = 5.0
# The first version of the server that stores a batch as a whole.
NEEDED = (2, 12)

# How the server says which permission is missing.
_REFUSED = re.compile(
    r"permissions violation for (?:subscription|publish) to \\?[\"'](\S+?)\\?[\"']", re.I
)

_FAULTS = (nats.errors.Error, OSError, TimeoutError)


def unavailable(error: BaseException, doing: str = "") -> SourceUnavailableError:
    """The error for callers. It has no address, which could contain a password."""
    if isinstance(error, TimeoutError):  # the driver's own is one too
        said = f"no answer within {PATIENCE:g} s"
    elif isinstance(error, nats.errors.NoRespondersError):
        said = "JetStream does not answer"
    else:
        said = str(error).removeprefix("nats: ") or type(error).__name__
    return SourceUnavailableError(NAME, doing + said)


class Tap(asyncio.Future[Msg]):
    """Receives every message of any number of subscriptions, without a task or queue for each.

    The driver gives a subscription's messages to its future. This future is never done.
    """

    def __init__(self, receive: Callable[[Msg], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._receive = receive

    def set_result(self, result: Msg, /) -> None:
        """Called by the driver for each message."""
        try:
            self._receive(result)
        except Exception:
            _log.exception("%s: a message could not be read", NAME)


@dataclass(slots=True)
class _Answer:
    """An answer: one message, or with ``many`` several, of which the last one has a status."""

    subject: str
    many: bool
    done: asyncio.Future[list[Msg]]
    messages: list[Msg] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def receive(self, message: Msg) -> None:
        self.messages.append(message)
        if self.done.done() or (self.many and "Status" not in (message.headers or {})):
            return
        if (message.headers or {}).get("Status") == "503":
            self.done.set_exception(nats.errors.NoRespondersError())
        else:
            self.done.set_result(self.messages)


class Life:
    """One connection, which never reconnects: ``Link`` opens a new one.

    Attributes:
        client: the driver's connection.
        lost: called with the reason when the connection has ended.
    """

    lost: Callable[[Exception], None] | None = None

    def __init__(self) -> None:
        self.client = Client()
        self._answers: dict[str, _Answer] = {}
        self._tokens = itertools.count()
        self._inbox = ""
        self._refused: dict[str, Exception] = {}
        self._flushing: set[asyncio.Task[None]] = set()
        self._fault: Exception = nats.errors.ConnectionClosedError()

    async def open(self, servers: Sequence[str], options: Mapping[str, Any]) -> None:
        """Connect to the first of the servers that answers."""
        await self.client.connect(
            servers=list(servers),
            name="headwater",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=int(PATIENCE),
            error_cb=self._failed,
            closed_cb=self._closed,
            **options,
        )
        self._inbox = self.client.new_inbox()
        await self.client.subscribe(f"{self._inbox}.*", future=Tap(self._answered))

    async def ask(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        many: bool = False,
    ) -> list[Msg]:
        """The answer: one message, or with ``many`` several, of which the last one has a status."""
        token = str(next(self._tokens))
        if self._refused:
            self.check_rights(self._inbox)
        answer = _Answer(subject, many, asyncio.get_running_loop().create_future())
        self._answers[token] = answer
        try:
            async with asyncio.timeout(PATIENCE):
                await self.client.publish(
                    subject,
                    payload,
                    reply=f"{self._inbox}.{token}",
                    headers=None if headers is None else dict(headers),
                )
                return await answer.done
        finally:
            del self._answers[token]

    async def flush(self) -> None:
        """Return once the server has done all that was sent. Without an answer, disconnect."""
        # If a flush is cancelled, the driver stops reading at its answer. So it goes on.
        flushing = asyncio.create_task(self.client.flush(int(PATIENCE)))
        self._flushing.add(flushing)
        flushing.add_done_callback(self._flushing.discard)
        try:
            await asyncio.shield(flushing)
        except _FAULTS:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect."""
        # Some versions of the driver fail on a connection that was never opened.
        with suppress(*_FAULTS, AttributeError, AssertionError):
            # A server whose certificate was refused does not end the connection.
            async with asyncio.timeout(1):
                await self.client.close()
        for flushing in self._flushing:
            flushing.cancel()

    def _answered(self, message: Msg) -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is not None:
            answer.receive(message)

    def check_rights(self, subject: str) -> None:
        """Raise if the server has refused something at a subject that begins with this one."""
        for refused, error in self._refused.items():
            if refused.startswith(subject.lower()):
                raise error

    async def _failed(self, error: Exception) -> None:
        self._fault = error
        _log.debug("%s: %r", NAME, error)
        found = _REFUSED.search(str(error))
        if found is None:
            return
        refused = found[1].lower()  # as the driver gives it
        self._refused[refused] = error
        for answer in self._answers.values():
            # No answer can come to an inbox that is refused.
            if refused == answer.subject.lower() or refused.startswith(self._inbox.lower()):
                answer.fail(error)

    async def _closed(self) -> None:
        for answer in self._answers.values():
            answer.fail(nats.errors.ConnectionClosedError())
        if self.lost is not None:
            self.lost(unavailable(self._fault))


class Link:
    """Connects at the first use, and again after the connection is lost.

    Arguments:
        servers: ``nats://host:4222`` and the like; the first that answers is used.
        options: for ``connect`` of the driver: ``token``, ``tls``, ``user_credentials`` and so on.
        opened: called with each new connection.
    """

    def __init__(
        self,
        servers: Sequence[str],
        options: Mapping[str, Any],
        opened: Callable[[Life], None],
    ) -> None:
        self._servers = servers
        self._options = options
        self._opened = opened
        self._life: Life | None = None
        self._opening = asyncio.Lock()
        self._home = Home(NAME)
        self._running: set[asyncio.Future[None]] = set()
        self.closed = False

    async def life(self) -> Life:
        """The open connection. Raises SourceUnavailableError."""
        if self.closed:
            raise UsageError(f"{NAME} is closed")
        self._settle()
        life = self._life
        if life is not None and not life.client.is_closed:
            return life
        async with self._opening:
            if self._life is None or self._life.client.is_closed:
                self._life = await self._open()
            return self._life

    async def run(self, work: Callable[[Life], Awaitable[_T]], *, again: bool = True) -> _T:
        """Do work on the connection. With ``again``, once more on a new one if it broke.

        Raises SourceUnavailableError. It lets NoRespondersError pass: then nothing was done, and
        the caller looks for the stream.
        """
        doing = "" if again else "whether it was done is not known: "
        while True:
            life = await self.life()
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._running.add(done)
            try:
                return await work(life)
            except nats.errors.NoRespondersError:
                raise
            except _FAULTS as error:
                if not again or not life.client.is_closed:
                    raise unavailable(error, doing) from error
                again = False
            finally:
                self._running.discard(done)
                done.cancel()

    async def close(self) -> None:
        """Wait for the requests that run, then disconnect. Idempotent."""
        self.closed = True
        self._settle()
        if self._running:
            await asyncio.wait(self._running, timeout=PATIENCE)
        async with self._opening:
            if self._life is not None:
                await self._life.close()

    def _settle(self) -> None:
        """Drop the connection of an event loop that has ended. It can no longer be closed."""
        if self._home.moved():
            self._life = None
            self._running.clear()

    async def _open(self) -> Life:
        life = Life()
        try:
            async with asyncio.timeout(PATIENCE):
                for server in self._servers:
                    if server.startswith("tls://") or "tls" in self._options:
                        await _check_tls(server)
                await life.open(self._servers, self._options)
        except BaseException as error:
            await life.close()
            if isinstance(error, ImportError):
                raise UsageError(
                    f"{NAME}: credentials need a package more: pip install {error.name}"
                ) from error
            if isinstance(error, nats.errors.NoServersError):
                raise unavailable(life.client.last_error or error) from error
            if isinstance(error, _FAULTS):
                raise unavailable(error) from error
            raise
        version = life.client.connected_server_version
        if (version.major, version.minor) < NEEDED:
            await life.close()
            raise UsageError(f"{NAME}: use NATS 2.12 or newer; this is {version}")
        self._opened(life)
        return life


async def _check_tls(server: str) -> None:
    """Raise UsageError for a server without TLS. The driver would send the password in plain."""
    place = urlsplit(server)
    try:
        reader, writer = await asyncio.open_connection(place.hostname, place.port or 4222)
    except OSError:
        return  # another server may be there, and this one's error comes later
    try:
        async with asyncio.timeout(1):
            # A server that begins with TLS sends nothing by itself.
            said = json.loads((await reader.readline()).removeprefix(b"INFO "))
    except (TimeoutError, ValueError):
        return
    finally:
        writer.close()
    if not said.get("tls_required"):
        raise UsageError(f"{NAME}: the server has no TLS; use nats:// or enable TLS there")
