"""The engine on SQLite: the contract on a real file, and what only a SQL database can do."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog import START, EventLog, MemoryLog, Offset, Record, open_log
from headwater.eventlog.sql import METADATA, SqlLog
from headwater.sql import configure_sqlite, sqlite_engine
from headwater.testing import EventLogContract
from headwater.testing._eventlog import Recorder
from support.log_rounds import rounds


def _copy(path: str, to: str) -> None:
    with closing(sqlite3.connect(path, 30)) as file, closing(sqlite3.connect(to, 30)) as copy:
        file.backup(copy)


OF = "topic_id = (SELECT id FROM headwater_topics WHERE name = :topic)"


class TestContract(EventLogContract):
    """A log that opens its file itself."""

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/events.db"

    async def open(self) -> EventLog:
        log = open_log(self.url)
        await log.start()
        return log

    async def reopen(self, log: EventLog) -> EventLog:
        return await self.open()

    async def wipe(self, log: EventLog) -> None:
        other = open_log(self.url)
        assert isinstance(other, SqlLog)
        async with other.engine.begin() as connection:
            await connection.run_sync(METADATA.drop_all)
        await other.close()

    async def run(self, *statements: str, **values: object) -> None:
        """As another program does; the log's own threads go on meanwhile."""
        await asyncio.to_thread(self._run, statements, values)

    def _run(self, statements: Sequence[str], values: Mapping[str, object]) -> None:
        with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), 30)) as file, file:
            for statement in statements:
                file.execute(statement, values)

    async def keep_copy(self, log: EventLog) -> str:
        path = self.url.removeprefix("sqlite:///")
        await asyncio.to_thread(_copy, path, path + "2")
        return path + "2"

    async def go_back(self, log: EventLog, copy: str) -> None:
        await asyncio.to_thread(_copy, copy, self.url.removeprefix("sqlite:///"))

    @pytest.mark.soak
    @pytest.mark.parametrize("writers", [1, 20])
    @pytest.mark.parametrize("streams", [True, False], ids=["streams", "away"])
    async def test_rounds_with_followers_in_two_processes(
        self, writers: int, streams: bool
    ) -> None:
        """And with clients that are away. It prints its figures."""
        print(await rounds(self, self.url, writers, streams=streams))

    async def purge(self, log: EventLog, topic: str, last: Offset) -> None:
        await self.run(f"DELETE FROM headwater_events WHERE {OF} AND number <= {last}", topic=topic)

    async def remove(self, log: EventLog, record: Record) -> bool:
        statement = f"DELETE FROM headwater_events WHERE {OF} AND number = {record.offset}"
        await self.run(statement, topic=record.topic)
        return True

    async def lose_topic(self, log: EventLog, topic: str) -> None:
        await self.run(
            f"DELETE FROM headwater_events WHERE {OF}",
            "DELETE FROM headwater_topics WHERE name = :topic",
            topic=topic,
        )

    @asynccontextmanager
    async def stall(self, log: EventLog) -> AsyncIterator[None]:
        """Another program's transaction holds the file for as long as it likes."""
        file = sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None)
        with closing(file):
            file.execute("BEGIN IMMEDIATE")
            yield

    async def intrude(self, log: EventLog, topic: str) -> None:
        await self.run(
            "UPDATE headwater_topics SET latest = latest + 1 WHERE name = :topic",
            "INSERT INTO headwater_events (topic_id, number, at, size, part, data)"
            " SELECT id, latest, 0, 2, 0, '21 degrees' FROM headwater_topics WHERE name = :topic",
            topic=topic,
        )


@pytest.mark.long
class TestContractOnAPlainEngine(TestContract):
    """A log in an engine of the application's own, with SQLAlchemy's defaults."""

    async def open(self) -> EventLog:
        class Owned(SqlLog):
            async def close(self) -> None:
                await super().close()
                await self.engine.dispose()

        return Owned(create_async_engine(self.url.replace("sqlite:", "sqlite+aiosqlite:")))


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqlLog]:
    engine = sqlite_engine(f"sqlite:///{tmp_path}/app.db")
    async with SqlLog(engine) as log, engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
        await connection.commit()
        yield log
    await engine.dispose()


async def seen(log: EventLog, topic: str = "t") -> list[object]:
    return [record.data["n"] for record in (await log.read(topic, START, 1000)).records]


async def test_an_append_in_a_transaction_is_published_if_it_commits(log: SqlLog) -> None:
    """An order and its event are both there, or neither."""
    follower = Recorder()
    await log.follow("t", follower)
    async with log.engine.begin() as connection:
        await connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
        (record,) = await log.append("t", {"n": 1}, connection=connection)
        assert await seen(log) == [], "it is published before the commit"
    await follower.count(1)
    assert follower.records == [record]


async def test_an_append_in_a_transaction_that_is_rolled_back_never_was(log: SqlLog) -> None:
    follower = Recorder()
    await log.follow("t", follower)
    with pytest.raises(ZeroDivisionError):
        async with log.engine.begin() as connection:
            await connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
            await log.append("t", {"n": 1}, key="k", connection=connection)
            1 / 0  # noqa: B018
    # Neither its number nor its key is used up.
    (record,) = await log.append("t", {"n": 2}, key="k")
    assert str(record.offset) == "1"
    await follower.count(1)
    assert follower.records == [record]


async def test_a_session_can_be_joined_and_a_savepoint_undone(log: SqlLog) -> None:
    async with AsyncSession(log.engine) as session:
        await session.execute(sa.text("INSERT INTO orders VALUES (1)"))
        await log.append("t", [{"n": 1}, {"n": 2}], connection=session)
        savepoint = await session.begin_nested()
        await log.append("t", {"n": "undone"}, connection=session)
        await savepoint.rollback()
        await log.append("t", {"n": 3}, connection=session)
        await session.commit()
    assert await seen(log) == [1, 2, 3]


async def test_a_key_counts_inside_and_outside_of_transactions(log: SqlLog) -> None:
    first = await log.append("t", {"n": 1}, key="k")
    async with log.engine.begin() as connection:
        assert await log.append("t", {"n": 1}, key="k", connection=connection) == first
        inner = await log.append("t", {"n": 2}, key="l", connection=connection)
        assert await log.append("t", {"n": 2}, key="l", connection=connection) == inner
    assert await log.append("t", {"n": 2}, key="l") == inner
    assert await seen(log) == [1, 2]


@pytest.mark.parametrize("data", [{"n": 1}, []], ids=repr)
async def test_only_a_connection_can_be_joined(log: SqlLog, data) -> None:
    with pytest.raises(UsageError, match="AsyncConnection"):
        await log.append("t", data, connection=log.engine)
    assert await seen(log) == []


async def test_the_tables_can_be_made_by_a_migration(tmp_path: Path) -> None:
    """Where the application may not create tables, it only needs them to be there."""
    engine = sqlite_engine(f"sqlite:///{tmp_path}/app.db")
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    async with SqlLog(engine) as log:
        await log.append("t", {"n": 1})
        assert await seen(log) == [1]
    await engine.dispose()


async def test_many_start_at_once(tmp_path: Path) -> None:
    """Workers that start on an empty database agree on one life of the log."""
    logs = [open_log(f"sqlite:///{tmp_path}/events.db") for _ in range(6)]
    await asyncio.gather(*(log.start() for log in logs))
    assert len({(await log.bounds("t")).epoch for log in logs}) == 1
    for log in logs:
        await log.close()


async def test_an_append_that_cannot_be_committed_raises(log: SqlLog, tmp_path: Path) -> None:
    """A caller that learns that nothing was appended can try again with the same key."""
    await log.append("t", {"n": 0})
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    impatient = SqlLog(configure_sqlite(engine, busy_timeout=0.05))
    other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SourceUnavailableError, match="locked"):
        await impatient.append("t", {"n": 1}, key="k")
    other.execute("ROLLBACK")
    other.close()
    assert await seen(log) == [0]
    await impatient.append("t", {"n": 1}, key="k")
    assert await seen(log) == [0, 1]
    await impatient.close()
    await engine.dispose()


async def test_one_failure_reaches_everyone_who_was_committed_together(tmp_path: Path) -> None:
    """Each of a crowd of appenders gets the error, and none waits for ever."""
    log = open_log(f"sqlite:///{tmp_path}/missing/events.db")
    errors = await asyncio.gather(
        *(log.append("t", {"n": n}) for n in range(20)), return_exceptions=True
    )
    assert {type(one) for one in errors} == {SourceUnavailableError}
    (tmp_path / "missing").mkdir()
    await log.append("t", {"n": 1})
    assert await seen(log) == [1]
    await log.close()


async def test_an_appender_that_is_cancelled_leaves_whole_batches(log: SqlLog) -> None:
    """A client that leaves in the middle of a request tears nothing."""
    for delay in range(30):
        append = asyncio.create_task(log.append("t", [{"n": delay}] * 3))
        for _ in range(delay):
            await asyncio.sleep(0)
        append.cancel()
        await asyncio.wait([append])
    await log.append("t", {"n": "last"})
    kept = await seen(log)
    assert kept[-1] == "last"
    assert all(kept.count(number) in (0, 3) for number in range(30))


async def test_a_reader_that_is_cancelled_costs_no_connection(log: SqlLog) -> None:
    """A client that leaves inside a database call leaks neither a connection nor its thread."""
    await log.append("t", {"n": 1})
    lost: list[object] = []
    sa.event.listen(log.engine.sync_engine, "invalidate", lambda *_: lost.append(None))
    for delay in range(40):
        read = asyncio.create_task(log.read("t", START, 1))
        for _ in range(delay):
            await asyncio.sleep(0)
        read.cancel()
        await asyncio.wait([read])
    await log.close()
    assert not lost, f"{len(lost)} of 40 reads lost their connection"


async def test_what_is_exactly_as_old_as_the_limit_stays(tmp_path: Path) -> None:
    """As in memory: ``max_age`` is an age that is still kept."""
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    engine = sqlite_engine(f"sqlite:///{tmp_path}/events.db")
    for log in (MemoryLog(clock=lambda: now[0]), SqlLog(engine, clock=lambda: now[0])):
        for n in range(3):
            await log.append("t", {"n": n})
            now[0] += timedelta(seconds=10)
        assert await log.trim("t", max_age=timedelta(seconds=20)) == 1
        assert await seen(log) == [1, 2]
        await log.close()
    await engine.dispose()


async def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/events.db")
    await log.append("t", {"n": 1})
    await log.close()
    for call in (log.append("t", {"n": 2}), log.bounds("t"), log.follow("t", Recorder())):
        with pytest.raises(UsageError, match="closed"):
            await call


async def test_closing_waits_for_what_was_asked_for(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/events.db")
    append = asyncio.create_task(log.append("t", {"n": 1}))
    await asyncio.sleep(0)
    await log.close()
    assert [str(record.offset) for record in await append] == ["1"]


async def test_other_sql_databases_are_refused() -> None:
    class Dialect:
        name = "mysql"

    class Engine:
        dialect = Dialect()

    with pytest.raises(UsageError, match="SQLite"):
        SqlLog(Engine())  # type: ignore[arg-type]


async def test_a_file_that_went_back_and_was_written_to_at_one_blow_is_noticed(
    log: SqlLog, tmp_path: Path
) -> None:
    """A copy that is restored and caught up between two looks ends at the same number."""
    follower = Recorder()
    await log.follow("t", follower)
    await log.append("t", [{"n": n} for n in range(3)])
    await follower.count(3)
    for resets in (1, 2, 3):  # a look that is due by an append may find the first one
        with closing(sqlite3.connect(tmp_path / "app.db", 10)) as file, file:
            file.execute("UPDATE headwater_events SET at = at + 1, size = 7 WHERE number = 3")
        await follower.until(lambda one, n=resets: len(one.resets) == n, "a reset")
    assert {reason for reason, _, _ in follower.resets} == {"unknown"}
