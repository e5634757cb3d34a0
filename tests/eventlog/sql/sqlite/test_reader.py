"""Following a log on SQLite: trimmed past, restored, away, and ten thousand topics."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from headwater.errors import SourceUnavailableError
from headwater.eventlog import Retention, open_log
from headwater.eventlog.sql import SqlLog
from headwater.eventlog.sql._writer import trim_some
from headwater.testing._eventlog import Recorder
from support.until import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[SqlLog]:
    log = open_log(f"sqlite:///{path}")
    assert isinstance(log, SqlLog)
    async with log:
        yield log


def by_hand(path: Path, *statements: str) -> None:
    """Another program, in one transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    for statement in statements:
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.close()


def make_whole(path: Path) -> None:
    """Bring everything from the write-ahead log into the file itself, so that it can be moved."""
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "busy"
    connection.close()


ADD = (
    "UPDATE headwater_topics SET latest = latest + 1 WHERE name = 't'",
    "INSERT INTO headwater_events (topic_id, number, at, size, part, data)"
    " SELECT id, latest, 0, 7, 0, '{\"n\":' || latest || '}' FROM headwater_topics"
    " WHERE name = 't'",
)
TRIM = (
    "DELETE FROM headwater_events",
    "UPDATE headwater_topics SET trimmed = latest",
    "UPDATE headwater_log SET trims = trims + 1",
)


async def test_commits_of_another_program_are_followed(log: SqlLog, path: Path) -> None:
    follower = Recorder()
    await log.append("t", {"n": 1})
    await log.follow("t", follower)
    by_hand(path, *ADD, *ADD)
    await follower.count(2)
    assert [record.data["n"] for record in follower.records] == [2, 3]


async def test_a_follower_that_a_trim_overtook_is_reset(log: SqlLog, path: Path) -> None:
    """Nothing is left out silently: what went before it could be read is a reset."""
    overtaken, quiet = Recorder(), Recorder()
    await log.append("t", {"n": 1})
    await log.append("quiet", {"n": 1})
    await log.follow("t", overtaken)
    await log.follow("quiet", quiet)
    by_hand(path, *ADD, *ADD, *TRIM)
    await overtaken.until(lambda one: bool(one.resets), "a reset")
    reason, bounds, _ = overtaken.resets[0]
    assert reason == "expired"
    assert bounds.earliest == bounds.latest == (3,)
    by_hand(path, *ADD)
    await log.append("quiet", {"n": 2})
    await overtaken.count(1)
    await quiet.count(1)
    assert overtaken.records[0].data == {"n": 4}
    assert not quiet.resets, "a quiet topic was reset because of another's trim"


async def test_a_follower_that_joins_does_not_get_what_its_bounds_hold(log: SqlLog) -> None:
    """The reader may be behind the bounds of a new follower, to which the gap is history."""
    early = Recorder()
    await log.follow("t", early)
    late = []
    for n in range(20):
        await log.append("t", {"n": n})
        follower = Recorder()
        late.append((follower, (await log.follow("t", follower)).latest))
    await log.append("t", {"n": "last"})
    await early.count(21)
    for follower, latest in late:
        await follower.until(lambda one: one.records[-1:] == early.records[-1:], "the last")
        assert follower.records == [one for one in early.records if one.offset > latest]


async def test_a_trim_in_the_same_commit_is_noticed(log: SqlLog) -> None:
    """What ``trim`` itself writes is enough for a reader that was overtaken."""
    follower = Recorder()
    await log.follow("t", follower)
    async with log.engine.begin() as connection:
        await log.append("t", [{"n": 1}, {"n": 2}], connection=connection)
        assert await trim_some(connection, "t", Retention(max_count=1), None) == 1
    await follower.until(lambda one: bool(one.resets), "a reset")
    assert (follower.resets[0][0], follower.records) == ("expired", [])


async def test_commits_of_this_process_do_not_wait_for_the_watch(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a transaction of the caller's own."""
    monkeypatch.setattr("headwater.sql.sqlite._file_watch.INTERVAL", 600.0)
    log = open_log(f"sqlite:///{path}")
    assert isinstance(log, SqlLog)
    async with log:
        follower = Recorder()
        await log.follow("t", follower)
        await log.append("t", {"n": 1})
        await follower.count(1)
        async with log.engine.begin() as connection:
            await log.append("t", {"n": 2}, connection=connection)
        await follower.count(2)


async def test_a_backup_that_was_put_back_resets_followers(log: SqlLog, path: Path) -> None:
    """An older copy of the file has the same epoch, but ends before what was delivered."""
    await log.append("t", {"n": 1})
    by_hand(path, "CREATE TABLE backup AS SELECT * FROM headwater_events")
    follower = Recorder()
    await log.follow("t", follower)
    await log.append("t", [{"n": 2}, {"n": 3}])
    await follower.count(2)
    by_hand(
        path,
        "DELETE FROM headwater_events WHERE number > 1",
        "UPDATE headwater_topics SET latest = 1",
        "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'headwater_events'",
    )
    await follower.until(lambda one: bool(one.resets), "a reset")
    assert follower.resets[0][0] == "unknown"
    await log.append("t", {"n": "anew"})  # which begins a new epoch, and a reset that covers it
    await follower.until(lambda one: len(one.resets) == 2, "another reset")
    await log.append("t", {"n": "later"})
    await follower.count(3)
    assert follower.records[-1].data == {"n": "later"}


async def test_a_file_that_is_away_for_a_while_costs_nothing(
    log: SqlLog, path: Path, tmp_path: Path
) -> None:
    """Streams stay open and go on when it is back; joining meanwhile is an error."""
    follower = Recorder()
    await log.append("t", {"n": 1})
    await log.follow("t", follower)
    make_whole(path)
    away = tmp_path / "away.db"
    path.rename(away)
    with pytest.raises(SourceUnavailableError):
        await log.append("t", {"n": "lost"})
    with pytest.raises(SourceUnavailableError):
        await log.bounds("t")
    with pytest.raises(SourceUnavailableError):
        await log.follow("t", Recorder())
    by_hand(away, *ADD)
    make_whole(away)
    away.rename(path)
    await follower.count(1)
    await log.append("t", {"n": 3})
    await follower.count(2)
    assert [record.data["n"] for record in follower.records] == [2, 3]
    assert not follower.resets


async def test_another_file_in_its_place_is_another_log(
    log: SqlLog, path: Path, tmp_path: Path
) -> None:
    """Fail-over to a fresh, empty database: streams are reset once and go on with it."""
    follower = Recorder()
    await log.append("t", [{"n": 1}, {"n": 2}])
    before = await log.follow("t", follower)
    fresh = tmp_path / "fresh.db"
    sqlite3.connect(fresh).close()
    fresh.touch()
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    shutil.move(fresh, path)
    await follower.until(lambda one: bool(one.resets), "a reset")
    assert follower.resets[0][0] == "unknown"
    assert follower.resets[0][1].epoch != before.epoch
    (record,) = await log.append("t", {"n": 3})
    assert str(record.offset) == "1"
    await follower.count(1)
    assert follower.records == [record]


@pytest.mark.long
async def test_ten_thousand_topics_come_and_go(log: SqlLog) -> None:
    """No task and no statement per topic; an unfollowed topic costs nothing."""
    statements: list[str] = []
    sa.event.listen(
        log.engine.sync_engine,
        "before_cursor_execute",
        lambda *args: statements.append(args[2]),
    )
    tasks = len(asyncio.all_tasks())
    followers = {f"topic:{n}": Recorder() for n in range(10_000)}
    async with asyncio.TaskGroup() as group:
        for topic, follower in followers.items():
            group.create_task(log.follow(topic, follower))
    assert len(asyncio.all_tasks()) <= tasks + 2
    assert len(statements) < 20, "following many at once is one statement for all of them"
    statements.clear()
    await log.append("topic:77", {"n": 1})
    await followers["topic:77"].count(1)
    assert len([one for one in statements if one.startswith("SELECT")]) < 10
    for topic, follower in followers.items():
        await log.unfollow(topic, follower)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert sum(len(one.records) for one in followers.values()) == 1


async def test_a_backlog_is_read_in_pieces_and_in_order(log: SqlLog) -> None:
    """A reader that was far behind does not take everything into memory at once."""
    follower, other = Recorder(), Recorder()
    await log.follow("t", follower)
    await log.follow("u", other)
    for start in range(0, 3000, 1000):
        await log.append("t", [{"n": start + n} for n in range(1000)])
        await log.append("u", {"n": start})
    await follower.count(3000)
    await other.count(3)
    assert [record.data["n"] for record in follower.records] == list(range(3000))


async def test_the_reader_of_one_topic_does_not_scan_the_others(log: SqlLog) -> None:
    """The statement of a wake reads a range of ids, however many events there are."""
    from headwater.eventlog.sql._sqlite import NEWS

    async with log.engine.connect() as connection:
        plan = await connection.execute(
            sa.text(f"EXPLAIN QUERY PLAN {NEWS.text}"), {"last": 0, "topics": "[]", "rows": 5}
        )
        steps = [row.detail for row in plan]
    assert "SEARCH e USING INTEGER PRIMARY KEY (rowid>?)" in steps, steps


async def test_closing_ends_a_reader_whose_storage_is_away(tmp_path: Path) -> None:
    """A shut-down does not wait for a back-off."""
    path = tmp_path / "events.db"
    log = open_log(f"sqlite:///{path}")
    await log.follow("t", Recorder())
    path.rename(tmp_path / "away.db")
    with pytest.raises(SourceUnavailableError):
        await log.follow("t", Recorder())
    async with asyncio.timeout(3):
        await log.close()
