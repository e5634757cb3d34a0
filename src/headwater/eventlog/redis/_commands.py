"""Connections to Redis or Valkey, and the one on which a process runs its commands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha1
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
from redis.exceptions import TimeoutError as RedisTimeoutError

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog._batcher import Asked, Batcher
from headwater.eventlog._home import Home

NAME = "event log (redis)"

# Seconds that a group of commands may take, or the opening of a connection.
PATIENCE = 5.0
# The most commands, and bytes of them, that are sent together, so that the first of many callers
# does not wait long.
MOST = (500, 8 * 1024 * 1024)
# Seconds without use after which a connection is tested before it is used.
QUIET = 1.0


def pool_of(url: str) -> ConnectionPool:
    """The pool for an address. This opens no connection.

    The driver's own retries are off: it does not know whether an append was done before the
    connection broke, and would do it twice.
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
    """A connection that is not open yet and never goes back to the pool."""
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


def unavailable(error: BaseException, doing: str = "") -> SourceUnavailableError:
    """The error for callers. It has no address, which could contain a password."""
    if isinstance(error, TimeoutError):
        said = f"no answer within {PATIENCE:g} s"
    elif isinstance(error, OutOfMemoryError):
        said = "the server's memory is full (maxmemory)"
    else:
        said = str(error) or type(error).__name__
    return SourceUnavailableError(NAME, f"{doing}{said}")


@cache
def _name_of(script: str) -> str:
    """The name of a script that the server has seen before."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


class _BrokenError(SourceUnavailableError):
    """The connection broke before the answer came; the cause says how."""


def _packed(parts: Sequence[str | int | float]) -> bytes:
    """A command as bytes. The driver's own packing takes several times as long."""
    packed = [f"*{len(parts)}\r\n"]
    for part in parts:
        text = str(part)
        size = len(text) if text.isascii() else len(text.encode())
        packed.append(f"${size}\r\n{text}\r\n")
    return "".join(packed).encode()


class Commands:
    """Runs scripts on one connection.

    Commands that arrive while others wait for their answers are sent together, in one write. The
    answer to a cancelled caller is still read, so it does not disturb the others.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._batcher: Batcher[bytes, Any] = Batcher(
            NAME, self._send_all, lambda packed: (1, len(packed)), MOST, patience=PATIENCE
        )
        self._connection: AbstractConnection | None = None
        self._home = Home(NAME)
        self._used = 0.0
        self._known_version = False
        self._sent = False

    async def run(
        self, script: str, keys: Sequence[str], arguments: Sequence[Any], *, again: bool = True
    ) -> Any:
        """The script's answer. Raises SourceUnavailableError.

        With ``again`` it is sent a second time if the connection broke: only for a script that may
        run twice.
        """
        command = _packed(("EVALSHA", _name_of(script), len(keys), *keys, *arguments))
        while True:
            try:
                try:
                    return await self._batcher.ask(command)
                except NoScriptError:
                    # Nothing was run: a restarted server, or one that took over, does not know it.
                    whole = _packed(("EVAL", script, len(keys), *keys, *arguments))
                    return await self._batcher.ask(whole)
            except _BrokenError as error:
                # Not after a time-out: the caller has waited long enough.
                if not again or isinstance(error.__cause__, (TimeoutError, RedisTimeoutError)):
                    raise SourceUnavailableError(NAME, error.detail) from error.__cause__
                again = False
            except RedisError as error:
                raise unavailable(error) from error

    async def close(self) -> None:
        """Wait for what was asked for, then disconnect."""
        await self._batcher.close()
        self._settle()
        await self._disconnect()

    async def _send_all(self, group: Sequence[Asked[bytes, Any]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._send(group)
        except UsageError:
            await self._disconnect()
            raise
        except Exception as error:
            doing = "whether it was done is not known: " if self._sent else ""
            await self._disconnect()
            raise _BrokenError(NAME, unavailable(error, doing).detail) from error

    async def _send(self, group: Sequence[Asked[bytes, Any]]) -> None:
        self._sent = False
        connection = await self._connected()
        self._sent = True
        packed = b"".join([one.job for one in group])
        await connection.send_packed_command(packed, check_health=False)
        stale = False
        for one in group:
            try:
                one.answer(await connection.read_response(disconnect_on_error=False))
            except ResponseError as error:
                one.refuse(error)
                # The primary has become a replica: resolve the address again.
                stale = stale or isinstance(error, ReadOnlyError)
        self._used = asyncio.get_running_loop().time()
        if stale:
            await self._disconnect()

    async def _connected(self) -> AbstractConnection:
        self._settle()
        connection = self._connection
        if connection is not None and asyncio.get_running_loop().time() - self._used > QUIET:
            # To notice a restart of the server before an append is sent.
            try:
                await connection.send_command("PING", check_health=False)
                await connection.read_response()
            except (RedisError, OSError):
                await self._disconnect()
                connection = None
        if connection is None:
            connection = self._connection = connection_of(self._pool)
            await connection.connect()  # type: ignore[no-untyped-call]
            await self._check_version(connection)
        return connection

    def _settle(self) -> None:
        """Drop the connection of an event loop that has ended. It can no longer be closed."""
        if self._home.moved():
            self._connection = None

    async def _check_version(self, connection: AbstractConnection) -> None:
        if self._known_version:
            return
        await connection.send_command("INFO", "server")
        with suppress(RedisError):  # a user without the right to ask
            lines = bytes(await connection.read_response()).decode().split("\r\n")
            info = dict(line.split(":", 1) for line in lines if ":" in line)
            version = info.get("redis_version", "7")
            modes = (info.get("redis_mode"), info.get("server_mode"))
            if "sentinel" in modes:
                raise UsageError(
                    f"{NAME}: this server is a Sentinel, which keeps no data; give RedisLog the "
                    "pool of redis.asyncio.sentinel.Sentinel(...).master_for(name, protocol=2)"
                )
            if "cluster" in modes:
                raise UsageError(
                    f"{NAME}: this server is part of a cluster, which spreads keys over servers; "
                    "give a server that is not, with replicas or a Sentinel"
                )
            if int(version.split(".")[0]) < 7:
                raise UsageError(f"{NAME}: use Redis 7, Valkey 8 or newer; this is {version}")
        self._known_version = True

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
