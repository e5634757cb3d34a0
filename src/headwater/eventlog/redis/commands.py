"""Connections to Redis or Valkey: one for all that this process asks, one that is pushed to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog.redis.scripts import Script

__all__ = ["NAME", "PATIENCE", "Commands", "connect", "connection_of", "pool_of", "unavailable"]

NAME = "event log (redis)"

# Seconds that a round of commands may take, or a connection to be made.
PATIENCE = 5.0
# Commands, and bytes of them, that leave together: a crowd does not hold up its first for long.
ROUND, ROUND_BYTES = 500, 8 * 1024 * 1024
# Seconds of silence after which a connection is looked at before it is used.
QUIET = 1.0


def pool_of(url: str) -> ConnectionPool:
    """Where to connect; nothing is opened yet.

    The driver's own retries are off: it cannot know whether an append was done before the
    connection broke, and would double it.
    """
    return ConnectionPool.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=PATIENCE,
        socket_timeout=None,
        socket_keepalive=True,
        client_name="headwater",
    )


def connection_of(pool: ConnectionPool) -> AbstractConnection:
    """A connection of its own, not opened yet, that never goes back to the pool."""
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


async def connect(connection: AbstractConnection) -> None:
    """Open it."""
    await connection.connect()  # type: ignore[no-untyped-call]


def unavailable(error: BaseException, doing: str = "") -> SourceUnavailableError:
    """The error for callers. Holds no address, which might hold a password."""
    if isinstance(error, TimeoutError):
        said = f"no answer within {PATIENCE:g} s"
    elif isinstance(error, OutOfMemoryError):
        said = "the server's memory is full (maxmemory)"
    else:
        said = str(error) or type(error).__name__
    return SourceUnavailableError(NAME, f"{doing}{said}")


class _Command:
    __slots__ = ("done", "packed")

    def __init__(self, parts: Sequence[str | int | float], done: asyncio.Future[Any]) -> None:
        self.packed = _packed(parts)
        self.done = done


def _packed(parts: Sequence[str | int | float]) -> bytes:
    """A command as it is sent; the driver's own packing takes several times as long."""
    packed = [f"*{len(parts)}\r\n".encode()]
    for part in parts:
        data = str(part).encode()
        packed += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(packed)


class Commands:
    """Runs scripts on one connection.

    What is asked for while others are on their way leaves together in one write. A caller that is
    cancelled disturbs nobody: the answer is read all the same.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._waiting: deque[_Command] = deque()
        self._task: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._used = 0.0
        self._known_version = False
        self._sent = False
        self.closed = False

    async def run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Any], *, again: bool = True
    ) -> Any:
        """The script's answer. Raises SourceUnavailableError.

        With ``again`` it is asked a second time when the connection broke: only for what may be
        done twice.
        """
        try:
            return await self._run(script, keys, arguments)
        except _BrokenError as error:
            if not again:
                raise error.translated() from error.__cause__
        except RedisError as error:
            raise unavailable(error) from error
        try:
            return await self._run(script, keys, arguments)
        except _BrokenError as error:
            raise error.translated() from error.__cause__
        except RedisError as error:
            raise unavailable(error) from error

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            return await self._ask("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            # Nothing was run: a restarted server, or one that took over, learns it anew.
            return await self._ask("EVAL", script.text, len(keys), *keys, *arguments)

    async def start(self) -> None:
        """Connect."""
        try:
            await self._ask("PING")
        except _BrokenError as error:
            raise error.translated() from error.__cause__
        except RedisError as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        """Wait for what was asked for, then disconnect."""
        self.closed = True
        while self._task is not None:
            await asyncio.wait([self._task])
        await self._disconnect()

    async def _ask(self, *parts: Any) -> Any:
        if self.closed:
            raise UsageError(f"{NAME} is closed")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Command(parts, done))
        if self._task is None:
            self._task = asyncio.create_task(self._pump(), name=f"{NAME}: commands")
        return await done

    async def _pump(self) -> None:
        round_: list[_Command] = []
        try:
            while round_ := self._next_round():
                try:
                    async with asyncio.timeout(PATIENCE):
                        await self._send(round_)
                except Exception as error:
                    sent = self._sent
                    await self._disconnect()
                    for command in round_:
                        if not command.done.done():
                            command.done.set_exception(_broken(error, sent=sent))
        finally:
            self._task = None
            for command in (*round_, *self._waiting):
                command.done.cancel()  # nothing but the end of the loop leaves any
            self._waiting.clear()

    async def _send(self, round_: Sequence[_Command]) -> None:
        self._sent = False
        connection = await self._connected()
        self._sent = True
        packed = b"".join([command.packed for command in round_])
        await connection.send_packed_command(packed, check_health=False)
        stale = False
        for command in round_:
            answer: Any
            try:
                answer = await connection.read_response(disconnect_on_error=False)
            except ResponseError as error:
                answer = error
                # What was the primary has become a replica: ask for the address again.
                stale = stale or isinstance(error, ReadOnlyError)
            if command.done.done():
                continue
            if isinstance(answer, Exception):
                command.done.set_exception(answer)
            else:
                command.done.set_result(answer)
        self._used = asyncio.get_running_loop().time()
        if stale:
            await self._disconnect()

    async def _connected(self) -> AbstractConnection:
        connection = self._connection
        if connection is not None and asyncio.get_running_loop().time() - self._used > QUIET:
            # A server that was restarted is noticed before anything is asked of it.
            try:
                await connection.send_command("PING", check_health=False)
                await connection.read_response()
            except (RedisError, OSError):
                await self._disconnect()
                connection = None
        if connection is None:
            connection = self._connection = connection_of(self._pool)
            await connect(connection)
            await self._check_version(connection)
        return connection

    async def _check_version(self, connection: AbstractConnection) -> None:
        if self._known_version:
            return
        await connection.send_command("INFO", "server")
        with suppress(RedisError):  # a user without the right to ask
            lines = bytes(await connection.read_response()).decode().split("\r\n")
            told = dict(line.split(":", 1) for line in lines if ":" in line)
            version = told.get("redis_version", "7")
            if int(version.split(".")[0]) < 7:
                raise UsageError(f"{NAME}: Redis 7 or Valkey 8 is needed, and this is {version}")
        self._known_version = True

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    def _next_round(self) -> list[_Command]:
        round_: list[_Command] = []
        size = 0
        while self._waiting and len(round_) < ROUND and size < ROUND_BYTES:
            command = self._waiting.popleft()
            if not command.done.cancelled():
                round_.append(command)
                size += len(command.packed)
        return round_


class _BrokenError(Exception):
    """The connection broke before the answer came; the cause tells how."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__()
        self.sent = sent

    def translated(self) -> SourceUnavailableError:
        doing = "whether it was done is not known: " if self.sent else ""
        return unavailable(self.__cause__ or self, doing)


def _broken(error: Exception, *, sent: bool) -> Exception:
    """One for each caller: an exception collects the traceback of whoever raises it."""
    if isinstance(error, UsageError):
        return UsageError(*error.args)
    copy = _BrokenError(sent=sent)
    copy.__cause__ = error
    return copy
