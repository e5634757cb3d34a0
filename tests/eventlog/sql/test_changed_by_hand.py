"""What other programs do to the tables of a log, and what its followers and clients get."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from headwater.errors import PositionError, SourceUnavailableError
from headwater.eventlog import EventLog, Topic, open_log
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers, read_all
from support.postgres import Postgres
from support.until import succeeds

Execute = Callable[..., None]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Execute]]:
    """The address of a log, and what executes statements beside it."""
    if request.param == "sqlite":
        path = tmp_path / "log.db"

        def execute(*statements: str) -> None:
            with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as file:
                for statement in statements:
                    file.execute(statement)

        yield f"sqlite:///{path}", execute
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.database()
    url = f"postgresql://postgres@/{name}?host={postgres.folder}"

    def ask(*statements: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    yield url, ask
    postgres.drop(name)


async def position(log: EventLog) -> tuple[str, str]:
    page = await Topic(log, "t").page(1)
    return page.epoch, str(page.end)


@pytest.mark.parametrize("table", ["headwater_topics", "headwater_events"])
async def test_one_table_that_was_dropped_is_created_anew(
    place: tuple[str, Execute], table: str
) -> None:
    """No restart and no hand is needed; and what is gone is reset."""
    url, execute = place
    async with open_log(url) as log:
        follower = Recorder()
        await log.follow("t", follower)
        await log.append("t", [{"n": n} for n in range(3)])
        await follower.count(3)
        epoch, text = await position(log)
        await log.append("t", {"n": 3})
        await follower.count(4)
        execute(f"DROP TABLE {table}")
        new = [(await log.append("t", {"n": n}))[0] for n in (10, 11)]
        assert await read_all(log, "t") == new
        with pytest.raises(PositionError):
            await Topic(log, "t").locate(epoch, text)
        last = await log.append("t", {"n": 12})

        def has_last(one: Recorder) -> bool:
            # A reset that comes late has the newest event in its bounds.
            told = bool(one.resets) and one.resets[-1][1].latest >= last[0].offset
            return told or one.records[-1:] == last

        await follower.until(has_last, "the newest event")
        resumed = follower.resets[-1][1].latest if follower.resets else new[0].offset.previous()
        had = follower.resets[-1][2] if follower.resets else 4
        wanted = [one for one in [*new, *last] if one.offset > resumed]
        assert follower.records[had:] == wanted


async def test_a_new_topic_has_no_events_of_one_that_was_removed(
    place: tuple[str, Execute],
) -> None:
    """Its row is removed by hand, its events stay, and its id is given out again."""
    url, execute = place
    async with open_log(url) as log:
        await log.append("old", [{"n": n} for n in range(6)])
        await log.trim("old", max_count=2)
        execute("DELETE FROM headwater_topics WHERE name = 'old'")
        if url.startswith("postgresql"):
            execute("ALTER TABLE headwater_topics ALTER COLUMN id RESTART")
        await log.append("new", [{"n": 10}, {"n": 11}])
        assert numbers(await read_all(log, "new")) == [10, 11]
        await log.append("new", [{"n": 12}, {"n": 13}, {"n": 14}])
        assert numbers(await read_all(log, "new")) == [10, 11, 12, 13, 14]


async def test_counters_that_were_set_back_hold_up_no_append(place: tuple[str, Execute]) -> None:
    """As by restoring the topics' table alone: no number is given out twice."""
    url, execute = place
    async with open_log(url) as log:
        follower = Recorder()
        await log.follow("t", follower)
        await log.append("t", [{"n": n} for n in range(3)])
        await follower.count(3)
        execute("UPDATE headwater_topics SET latest = 1")
        if url.startswith("postgresql"):
            execute("ALTER TABLE headwater_topics ALTER COLUMN id RESTART")
            await log.append("u", {"n": 0})
        await log.append("t", {"n": 3})
        await follower.count(4)
        assert numbers(follower.records) == [0, 1, 2, 3]
        assert not follower.resets
        assert numbers(await read_all(log, "t")) == [0, 1, 2, 3]


async def test_a_refusal_of_the_database_is_one_sentence(tmp_path: Path) -> None:
    """As of a trigger; and no error of the driver."""
    path = tmp_path / "log.db"
    async with open_log(f"sqlite:///{path}") as log:
        await log.append("t", {"n": 0})
        with closing(sqlite3.connect(path)) as file:
            file.execute(
                "CREATE TRIGGER refusing BEFORE INSERT ON headwater_events"
                " BEGIN SELECT RAISE(ABORT, 'not today'); END"
            )
        with pytest.raises(SourceUnavailableError, match="SQLite says: not today"):
            await log.append("t", {"n": 1})
        assert numbers(await read_all(log, "t")) == [0]


@pytest.mark.long
async def test_a_search_path_that_leads_elsewhere_begins_no_second_log(postgres: Postgres) -> None:
    """Half of the connections would append where the other half does not read."""
    name = postgres.database()
    url = f"postgresql://postgres@/{name}?host={postgres.folder}"
    kill = (
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        async with open_log(url) as log:
            await log.append("t", {"n": 0})
            connection.execute("CREATE SCHEMA other")
            connection.execute(f"ALTER DATABASE {name} SET search_path = other")
            connection.execute(kill)
            with pytest.raises(SourceUnavailableError):  # its connection was cut
                await log.append("t", {"n": 1})
            with pytest.raises(SourceUnavailableError, match="search_path leads elsewhere"):
                await log.append("t", {"n": 1})
            connection.execute(f"ALTER DATABASE {name} RESET search_path")
            connection.execute(kill)
            await succeeds(lambda: log.append("t", {"n": 2}), SourceUnavailableError)
            assert numbers(await read_all(log, "t")) == [0, 2]
    postgres.drop(name)
