"""Whether what this process depends on can be used: the database, its disk, the event log."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from headwater.backend.database import Database, in_one_line
from headwater.errors import HeadwaterError, SourceUnavailableError
from headwater.eventlog import EventLog

logger = logging.getLogger("headwater.backend")

# Seconds after which a dependency without an answer counts as down.
_PATIENCE = 2.0
# Seconds for which an answer is used again. Anyone may ask at any rate, and a check costs a write.
_HOLDS = 0.2
# With fewer free bytes on its disk the database counts as down.
_ROOM = 1024 * 1024


class _Probe:
    """Checks one dependency. Callers that ask at the same time share one check."""

    def __init__(self, name: str, ask: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._ask = ask
        self._task: asyncio.Task[str | None] | None = None
        self._why: str | None = None
        self._until = 0.0

    async def is_up(self) -> bool:
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            return self._why is None
        task = self._task = self._task or loop.create_task(self._run())
        # A check that hangs is not cancelled: its driver may wait for the server to confirm that.
        done, _ = await asyncio.wait({task}, timeout=_PATIENCE)
        if done and self._task is task:
            self._task = None
        why = task.result() if done else f"no answer within {_PATIENCE:g} s"
        if why != self._why:
            if why is None:
                logger.info("%s can be used again", self._name)
            else:
                logger.warning("%s cannot be used: %s", self._name, why)
        self._why, self._until = why, loop.time() + _HOLDS
        return why is None

    async def _run(self) -> str | None:
        """What is wrong, or None."""
        try:
            await self._ask()
        except SourceUnavailableError as error:
            return error.detail
        except (HeadwaterError, OSError) as error:
            return str(error)
        except DBAPIError as error:
            return in_one_line(error)
        return None

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


class Probes:
    """The dependencies that ``/readyz`` reports."""

    def __init__(self, database: Database, log: EventLog) -> None:
        self._database = database
        self._log = log
        self._probes = {
            "database": _Probe("the database", self._ask_database),
            "event_log": _Probe("the event log", self._ask_log),
        }

    async def ask(self) -> Mapping[str, bool]:
        """Which of them are up. Answers within two seconds."""
        found = await asyncio.gather(*(probe.is_up() for probe in self._probes.values()))
        return dict(zip(self._probes, found, strict=True))

    def close(self) -> None:
        for probe in self._probes.values():
            probe.close()

    async def _ask_database(self) -> None:
        database = self._database
        # SQLite writes on to a file that was deleted or replaced, and the writes are lost.
        if not database.is_in_place():
            raise SourceUnavailableError("The database", "its file was moved or replaced")
        async with database.read() as session:
            await session.execute(text("SELECT version_num FROM alembic_version"))
        if database.address.path is not None:
            await asyncio.to_thread(_write_beside, database.address.path)
        else:
            # A full disk, a standby and a read-only server still answer reads.
            async with database.write() as session:
                await session.execute(
                    text("SELECT pg_logical_emit_message(true, 'headwater', 'readyz')")
                )
                # That message is let through where writes are not.
                if await session.scalar(text("SHOW transaction_read_only")) == "on":
                    raise SourceUnavailableError("The database", "it takes no writes")

    async def _ask_log(self) -> None:
        await self._log.bounds("readyz")


def _write_beside(path: Path) -> None:
    """Raise OSError unless the disk has room beside a file."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    number = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(number, 0, _ROOM)
        else:
            os.write(number, bytes(_ROOM))
    finally:
        os.close(number)
        beside.unlink()
