"""Any run of writers, rollbacks, key moves, deletes, trims and clocks, against a model.

Three kinds of readers: the tail, clients that resume from a place they were given (of a page or of
any single change), and clients that look at pages. Each must end with what the model says.
"""

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from sqlalchemy import text

from headwater.errors import PositionError
from headwater.sql import Table, sqlite_engine
from support.tables import Base, Client, Clock, Log, Recorder

keys = st.sampled_from("abcde")
users = st.integers(1, 2)
LENGTH = timedelta(minutes=10)


class Reader:
    """A client of one selection: what it holds, from where it resumes."""

    def __init__(self, source, wanted, window):
        self.source, self.wanted, self.window = source, wanted, window
        self.place = self.epoch = None
        self.items = {}

    def apply(self, changes, touched):
        for change in changes:
            key = change.key["id"]
            if change.removed:
                # What it never had may be taken away only when it was written meanwhile.
                assert key in self.items or key in touched
                self.items.pop(key, None)
            else:
                self.items[key] = change.item["user_id"], change.item["seen_at"]

    async def start(self):
        page = await self.source.page(100)
        assert not page.has_more
        self.items = {}
        self.apply(page.changes, set())
        self.place, self.epoch = page.end, page.epoch

    async def resume(self, limit, steps, touched):
        """Go on until the end, or from the middle of a page after ``steps`` changes."""
        while True:
            place = await self.source.locate(self.epoch, str(self.place))
            assert place == self.place
            page = await self.source.page(limit, after=place)
            assert len(page.changes) <= limit
            changes = page.changes
            if steps is not None and changes:
                changes = changes[: steps + 1]
            self.apply(changes, touched)
            whole = len(changes) == len(page.changes)
            self.place = page.end if whole else changes[-1].place
            if whole and not page.has_more:
                return
            steps = None


class Exactness(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.rows = {}  # key -> (user, moment)
        self.logs = []  # ids in order of commit
        self.trimmed = 0
        self.next_log = 1
        self.touched = set()
        self.runner.run(self._begin())

    async def _begin(self):
        self.engine = sqlite_engine(f"sqlite:///{Path(self.folder.name) / 'd.db'}")
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        self.clients, self.log_table = Table(self.engine, Client), Table(self.engine, Log)
        self.clients.reader.clock = self.clock
        self.tail, self.log_tail = Recorder(), Recorder()
        await self.clients.origin.attach(self.tail)
        await self.log_table.origin.attach(self.log_tail)
        every = self.clients.where()
        one = self.clients.where(user_id=1)
        self.readers = [
            Reader(every, {1, 2}, None),
            Reader(one, {1}, None),
            Reader(one.within("seen_at", LENGTH), {1}, LENGTH),
            Reader(every.within("seen_at", LENGTH), {1, 2}, LENGTH),
            Reader((one | self.clients.where(user_id=2, team_id=1)), {1, 2}, None),
        ]
        for reader in self.readers:
            await reader.start()
        page = await self.log_table.where().page(5)
        self.log_place, self.log_epoch, self.log_seen = page.end, page.epoch, []

    def teardown(self):
        if hasattr(self, "runner"):
            self.runner.run(self._end())
            self.runner.close()
            self.folder.cleanup()

    async def _end(self):
        await self.clients.origin.detach()
        await self.log_table.origin.detach()
        await self.engine.dispose()

    @rule(
        writes=st.lists(
            st.tuples(
                st.sampled_from(["put", "upsert", "user", "seen", "key", "delete", "log"]),
                keys,
                keys,
                users,
                st.integers(-15, 0),
            ),
            min_size=1,
            max_size=6,
        ),
        commits=st.booleans() | st.just(True),
    )
    def write(self, writes, commits):
        self.runner.run(self._write(writes, commits))

    async def _write(self, writes, commits):
        rows, logs, touched = dict(self.rows), [], set()
        async with self.engine.connect() as connection:
            for what, key, other, user, minutes in writes:
                moment = self.clock.now + timedelta(minutes=minutes)
                if minutes % 2:
                    stored = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
                else:
                    moment = moment.replace(microsecond=0)
                    stored = moment.strftime("%Y-%m-%d %H:%M:%S")
                given = {"key": key, "other": other, "user": user, "seen": stored}
                touched |= {key, other}
                if what == "put":
                    sql = "REPLACE INTO clients (id, user_id, seen_at) VALUES (:key, :user, :seen)"
                    rows[key] = (user, moment)
                elif what == "upsert":
                    sql = (
                        "INSERT INTO clients (id, user_id, seen_at) VALUES (:key, :user, :seen) "
                        "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at"
                    )
                    rows[key] = (rows[key][0] if key in rows else user, moment)
                elif what == "user":
                    sql = "UPDATE clients SET user_id = :user WHERE id = :key"
                    if key in rows:
                        rows[key] = (user, rows[key][1])
                elif what == "seen":
                    sql = "UPDATE clients SET seen_at = :seen WHERE id = :key"
                    if key in rows:
                        rows[key] = (rows[key][0], moment)
                elif what == "key":
                    sql = "UPDATE OR REPLACE clients SET id = :other WHERE id = :key"
                    if key in rows:
                        rows[other] = rows.pop(key)
                elif what == "delete":
                    sql = "DELETE FROM clients WHERE id = :key"
                    rows.pop(key, None)
                else:
                    sql = "INSERT INTO logs (id, user_id) VALUES (:id, :user)"
                    given = {"id": self.next_log, "user": user}
                    logs.append(self.next_log)
                    self.next_log += 1
                await connection.execute(text(sql), given)
            if commits:
                await connection.commit()
                self.rows = rows
                self.logs += logs
                self.touched |= touched

    @rule(seconds=st.sampled_from([1, 60, 299.5, 600]))
    def wait(self, seconds):
        self.clock.pass_(seconds=seconds)

    @rule(limit=st.integers(1, 4), steps=st.none() | st.integers(0, 3))
    def resume(self, limit, steps):
        self.runner.run(self._resume(limit, steps))
        self.touched = set()

    async def _resume(self, limit, steps):
        for reader in self.readers:
            await reader.resume(limit, steps, self.touched)
            assert reader.items == self._expected(reader)

    def _expected(self, reader):
        return {
            key: (user, moment)
            for key, (user, moment) in self.rows.items()
            if user in reader.wanted
            and (reader.window is None or moment + reader.window > self.clock.now)
        }

    @rule(limit=st.integers(1, 4))
    def look_back(self, limit):
        self.runner.run(self._look_back(limit))

    async def _look_back(self, limit):
        for reader in self.readers:
            page = await reader.source.page(limit)
            again = await reader.source.page(limit)
            assert (page.start, page.end) == (again.start, again.end)
            runs = [page]
            while runs[-1].has_more:
                older = await reader.source.page(limit, before=runs[-1].start)
                # The page that follows an older one begins where the newer one did.
                newer = await reader.source.page(limit, after=older.end)
                if reader.window is None:
                    assert newer.changes[-1].place.number >= runs[-1].start.number
                runs.append(older)
            found = [c for page in reversed(runs) for c in page.changes]
            numbers = [c.place.number for c in found]
            assert numbers == sorted(set(numbers))
            assert {c.key["id"] for c in found} == set(self._expected(reader))
            assert len(found) == len(self._expected(reader))
            if reader.window is not None:
                members = await reader.source.members()
                assert {key["id"]: moment for key, moment in members} == {
                    key: moment for key, (_, moment) in self._expected(reader).items()
                }

    @rule(limit=st.integers(1, 4))
    def read_logs(self, limit):
        self.runner.run(self._read_logs(limit))

    async def _read_logs(self, limit):
        source = self.log_table.where()
        try:
            await source.locate(self.log_epoch, str(self.log_place))
            while True:
                page = await source.page(limit, after=self.log_place)
                self.log_seen += [change.item["id"] for change in page.changes]
                self.log_place = page.end
                if not page.has_more:
                    break
        except PositionError as error:
            assert error.reason == "expired"
            assert len(self.log_seen) < self.trimmed
            page = await source.page(100)
            self.log_seen = self.logs[: self.trimmed] + [c.item["id"] for c in page.changes]
            self.log_place = page.end
        assert self.log_seen == self.logs

    @rule(keep=st.integers(0, 6))
    def trim(self, keep):
        kept = len(self.logs) - self.trimmed
        assert self.runner.run(self.log_table.trim(max_count=keep, grace=0)) == max(0, kept - keep)
        self.trimmed = max(self.trimmed, len(self.logs) - keep)

    @rule()
    def follow(self):
        self.runner.run(self._follow())

    async def _follow(self):
        async with self.engine.connect() as connection:
            found = await connection.execute(text("SELECT name, last FROM headwater_tables"))
            lasts = dict(found.all())
        if lasts["clients"]:
            await self.tail.until(
                lambda sink: sink.heads[-1:] and sink.heads[-1].number == lasts["clients"]
            )
        if self.logs:
            await self.log_tail.until(
                lambda sink: sink.heads and sink.heads[-1].number == lasts["logs"]
            )
        held = {}
        numbers = [change.place.number for change in self.tail.changes]
        assert numbers == sorted(set(numbers))
        for change in self.tail.changes:
            if change.removed:
                held.pop(change.key["id"], None)
            else:
                held[change.item["id"]] = change.item["user_id"], change.item["seen_at"]
        assert held == self.rows
        if not self.log_tail.resets:
            assert [change.item["id"] for change in self.log_tail.changes] == self.logs


class LongExactness(Exactness):
    """The same, with more and longer runs."""


PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
Exactness.TestCase.settings = settings(
    max_examples=14, stateful_step_count=15, deadline=None, phases=PHASES
)
LongExactness.TestCase.settings = settings(
    max_examples=400, stateful_step_count=25, deadline=None, phases=PHASES
)
# Long enough to find the shortest run that fails.
TestExactness = pytest.mark.timeout(600)(Exactness.TestCase)
TestLongExactness = pytest.mark.soak(pytest.mark.timeout(7200)(LongExactness.TestCase))
