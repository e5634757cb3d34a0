"""A tracked table, a log, relays that end with the test, and a log that fails on request."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import sqlalchemy as sa

from headwater.errors import SourceUnavailableError
from headwater.eventlog import START, EventLog
from headwater.relay import Relay
from headwater.sql import Table
from support.tables import Log
from support.until import outside

# Long enough for a busy machine, short enough to wait for.
LEASE = 0.5


class Moved:
    """A database with the tables, and a log.

    Attributes:
        engine: of the database.
        log: in a file of its own.
    """

    def __init__(self, engine, log) -> None:
        self.engine = engine
        self.log = log

    def relay(self, model=Log, topic="moved", log=None, **options) -> Relay:
        options = {"lease": LEASE, **options}
        order = options.pop("order", "prompt")
        return Relay(Table(self.engine, model, order=order), log or self.log, topic, **options)

    async def add(self, *messages: str, model=Log, **values) -> None:
        """One transaction with a row for each message."""
        rows = [{"user_id": 1, "message": message, **values} for message in messages]
        async with self.engine.begin() as connection:
            await connection.execute(sa.insert(model), rows)

    async def run(self, statement) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(
                sa.text(statement) if isinstance(statement, str) else statement
            )

    async def events(self, topic="moved", log=None):
        """All events of the topic."""
        return [one.data for one in (await (log or self.log).read(topic, START, 10_000)).records]

    async def messages(self, topic="moved", log=None):
        return [event["message"] for event in await self.events(topic, log)]

    async def until(self, *messages: str, topic="moved", log=None) -> None:
        """Wait until the log has these messages, and no others."""

        async def there():
            return await self.messages(topic, log) == list(messages)

        await outside(there)

    async def count(self, least, topic="moved"):
        """Wait until the topic has so many events; returns all."""

        async def enough():
            found = await self.events(topic)
            return found if len(found) >= least else None

        return await outside(enough, 30)

    async def state(self, name="moved"):
        """The relay's row."""
        async with self.engine.connect() as connection:
            found = sa.text("SELECT * FROM headwater_relays WHERE name = :name")
            return (await connection.execute(found, {"name": name})).one()


@asynccontextmanager
async def running(*relays: Relay):
    """Relays that run until the block ends. An error of one is raised here."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(relay.run()) for relay in relays]
        try:
            yield tasks
        finally:
            for relay in relays:
                relay.stop()


async def holding(*relays: Relay) -> Relay:
    """Wait until one of them holds the relay; returns it."""
    return await outside(lambda: next((relay for relay in relays if relay.holds), None))


class Troubled(EventLog):
    """A log whose appends can be lost, unacknowledged or delayed.

    Attributes:
        lost: so many appends do not arrive.
        unacknowledged: so many are made, and nobody is told.
        gate: before an append is sent; ``asked`` tells that one waits there.
        mute: after an append was made, for ever; ``made`` tells that one is there.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.name = log.name
        self.capabilities = log.capabilities
        self.max_event_bytes = log.max_event_bytes
        self.lost = self.unacknowledged = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.mute = False
        self.made = asyncio.Event()

    async def append(self, topic, data, *, key=None, connection=None):
        self.asked.set()
        await self.gate.wait()
        if self.lost:
            self.lost -= 1
            raise SourceUnavailableError(self.name, "it did not arrive")
        records = await self._log.append(topic, data, key=key)
        self.made.set()
        if self.mute:
            await asyncio.Event().wait()
        if self.unacknowledged:
            self.unacknowledged -= 1
            raise SourceUnavailableError(self.name, "no answer")
        return records

    async def read(self, topic, after, limit):
        return await self._log.read(topic, after, limit)

    async def latest(self, topic, limit, before=None):
        return await self._log.latest(topic, limit, before)

    async def bounds(self, topic):
        return await self._log.bounds(topic)

    async def follow(self, topic, follower):
        return await self._log.follow(topic, follower)

    async def unfollow(self, topic, follower):
        await self._log.unfollow(topic, follower)

    async def forget(self, *topics):
        await self._log.forget(*topics)

    async def trim(self, topic=None, **limits):
        return await self._log.trim(topic, **limits)

    async def close(self):
        pass
