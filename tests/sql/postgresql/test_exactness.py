"""Any run of overlapping transactions, against a model of what is committed.

Writers insert, update, move and delete rows in transactions that stay open side by side, with
savepoints, rollbacks, prepared commits and killed connections. Two processes tail the tables, each
in its own order; clients of both, and of pages alone, resume from any place that any of them was
given. Each must end with what the model says, and none may be told a row of the log twice.
"""

import asyncio
import itertools
from datetime import datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.sql import Table, track
from support.tables import Aware, Base, Client, Clock, Log, Recorder

pytestmark = pytest.mark.long

WRITERS = 4
writers = st.integers(0, WRITERS - 1)
keys = st.sampled_from("abcd")
users = st.integers(1, 3)
LENGTH = timedelta(minutes=10)

_setup = {}


class Quiet(DeclarativeBase):
    """The same tables without NOTIFY, which a transaction that is to be prepared must not use."""


@track(indexes=[("user_id",)], notify=False)
class QuietLog(Quiet):
    __tablename__ = "quiet_logs"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]


@track(keyed=True, filters=("user_id", "team_id"), notify=False)
class QuietClient(Quiet):
    __tablename__ = "quiet_clients"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    team_id: Mapped[int] = mapped_column(server_default="1")
    seen_at: Mapped[datetime | None] = mapped_column(Aware)


class Rig:
    """Two processes' tables and the writers' connections: made once, used for all examples."""

    def __init__(self, postgres):
        self.postgres, self.database = postgres, postgres.database()
        engine = sa.create_engine(postgres.url(self.database))
        Base.metadata.create_all(engine)
        Quiet.metadata.create_all(engine)
        engine.dispose()
        self.runner = asyncio.Runner()
        self.runner.run(self._open())

    async def _open(self):
        url = self.postgres.url(self.database)
        self.engines = [create_async_engine(url) for _ in range(2)]
        self.tables = {
            order: [
                (Table(engine, client, order=order), Table(engine, log, order=order))
                for engine in self.engines
            ]
            for order, client, log in (("prompt", QuietClient, QuietLog), ("total", Client, Log))
        }
        self.writers = [Writer() for _ in range(WRITERS)]

    def close(self):
        self.runner.run(self._close())
        self.runner.close()
        self.postgres.drop(self.database)

    async def _close(self):
        for engine in self.engines:
            await engine.dispose()
        for writer in self.writers:
            if writer.connection is not None:
                await writer.connection.close()

    async def connect(self):
        return await psycopg.AsyncConnection.connect(
            self.postgres.conninfo(self.database), autocommit=True
        )


@pytest.fixture(scope="module", autouse=True)
def rig(postgres):
    _setup["rig"] = made = Rig(postgres)
    yield
    made.close()
    _setup.clear()


class Transaction:
    """What an open transaction has done, for when it commits."""

    def __init__(self, began, rows):
        self.began = began
        self.rows = {}  # key -> (user, moment) or None
        self.logs = []
        self.saved = None

    def copy(self):
        return dict(self.rows), list(self.logs)


class Writer:
    """A connection of its own."""

    def __init__(self):
        self.connection = None
        self.open = None
        self.locked = set()

    async def run(self, sql, *values):
        if self.connection is None or self.connection.closed:
            self.connection = await _setup["rig"].connect()
        return await self.connection.execute(sql, values)


class Keyed:
    """A client of a selection of the keyed table."""

    def __init__(self, table, source, wanted, window=None):
        self.table, self.source, self.wanted, self.window = table, source, wanted, window
        self.items, self.place, self.epoch = {}, None, None

    def apply(self, change):
        key = change.key["id"]
        if change.removed:
            self.items.pop(key, None)
        else:
            self.items[key] = change.item["user_id"], change.item["seen_at"]
        if change.place is not None:
            self.place = change.place

    async def start(self):
        page = await self.source.page(100)
        self.items = {}
        for change in page.changes:
            self.apply(change)
        self.place, self.epoch = page.end, page.epoch

    async def resume(self, limit, steps):
        while True:
            place = await self.source.locate(self.epoch, str(self.place))
            page = await self.source.page(limit, after=place)
            assert len(page.changes) <= limit
            changes = page.changes if steps is None else page.changes[: steps + 1]
            for change in changes:
                self.apply(change)
            if len(changes) == len(page.changes):
                self.place = page.end
                if not page.has_more:
                    return
            steps = None


class Lines:
    """A client of the log: the ids that it was told, in order."""

    def __init__(self, source):
        self.source, self.told, self.place, self.epoch = source, [], None, None

    async def start(self):
        page = await self.source.page(1000)
        assert not page.has_more
        self.told = [change.item["id"] for change in page.changes]
        self.place, self.epoch = page.end, page.epoch

    async def resume(self, limit, steps):
        while True:
            place = await self.source.locate(self.epoch, str(self.place))
            page = await self.source.page(limit, after=place)
            changes = page.changes if steps is None else page.changes[: steps + 1]
            self.told += [change.item["id"] for change in changes]
            if changes:
                self.place = changes[-1].place
            if len(changes) == len(page.changes):
                self.place = page.end
                if not page.has_more:
                    return
            steps = None


class Exactness(RuleBasedStateMachine):
    total = False
    log, client = QuietLog, QuietClient

    @initialize()
    def begin(self):
        self.rig = _setup["rig"]
        self.runner, self.writers = self.rig.runner, self.rig.writers
        self.names = itertools.count(1)
        self.clock = Clock()
        self.rows = {}  # key -> (user, moment)
        self.lines = {}  # id -> transaction
        self.ended = {}  # transaction -> when it committed
        self.time = itertools.count(1)
        self.next_line = 1
        self.prepared = {}
        self.runner.run(self._begin())

    async def _begin(self):
        self.log_name, self.client_name = self.log.__tablename__, self.client.__tablename__
        for writer in self.writers:
            writer.open, writer.locked = None, set()
        async with self.rig.engines[0].begin() as connection:
            await connection.execute(sa.text(f"TRUNCATE {self.log_name}, {self.client_name}"))
        self.tables = self.rig.tables["total" if self.total else "prompt"]
        self.tails, self.keyed, self.logs = [], [], []
        for clients, logs in self.tables:
            clients.reader.clock = self.clock
            tails = Recorder(), Recorder()
            await clients.origin.attach(tails[0])
            await logs.origin.attach(tails[1])
            self.tails.append(tails)
            every, one = clients.where(), clients.where(user_id=1)
            self.keyed += [
                Keyed(clients, every, {1, 2, 3}),
                Keyed(clients, one, {1}),
                Keyed(clients, one | clients.where(user_id=2, team_id=1), {1, 2}),
                Keyed(clients, one.within("seen_at", LENGTH), {1}, LENGTH),
            ]
            self.logs.append(Lines(logs.where()))
        for reader in (*self.keyed, *self.logs):
            await reader.start()

    def teardown(self):
        if hasattr(self, "rig"):
            self.runner.run(self._end())

    async def _end(self):
        for writer in self.writers:
            if writer.open is not None:
                await writer.run("ROLLBACK")
                writer.open = None
        for name in self.prepared:
            await self.writers[0].run(f"ROLLBACK PREPARED '{name}'")
        for clients, logs in self.tables:
            await clients.origin.detach()
            await logs.origin.detach()

    # Writers

    @rule(
        who=writers,
        what=st.sampled_from(["put", "put", "user", "seen", "key", "delete", "log", "log", "log"]),
        key=keys,
        other=keys,
        user=users,
        minutes=st.integers(-15, 0),
    )
    def write(self, who, what, key, other, user, minutes):
        self.runner.run(self._write(self.writers[who], what, key, other, user, minutes))

    async def _write(self, writer, what, key, other, user, minutes):
        touched = {key, other} if what == "key" else {key}
        others = (w.locked for w in self.writers if w is not writer)
        held = set().union(*others, *(keys for _, keys in self.prepared.values()))
        if what != "log" and touched & held:
            return
        if writer.open is None:
            await writer.run("BEGIN")
            # Its id is taken now: what another one does meanwhile gets a higher one.
            await writer.run("SELECT pg_current_xact_id()")
            writer.open = Transaction(next(self.time), self.rows)
        work, moment = writer.open, self.clock.now + timedelta(minutes=minutes)
        stored = moment.replace(tzinfo=None)
        row = work.rows.get(key, self.rows.get(key))
        if what == "log":
            await writer.run(
                f"INSERT INTO {self.log_name} (id, user_id) VALUES (%s, %s)", self.next_line, user
            )
            work.logs.append(self.next_line)
            self.next_line += 1
            return
        writer.locked |= touched
        if what == "put":
            await writer.run(
                f"INSERT INTO {self.client_name} (id, user_id, seen_at) VALUES (%s, %s, %s) "
                "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
                key, user, stored,
            )  # fmt: skip
            work.rows[key] = (user if row is None else row[0], moment)
        elif what == "user":
            await writer.run(f"UPDATE {self.client_name} SET user_id = %s WHERE id = %s", user, key)
            if row is not None:
                work.rows[key] = (user, row[1])
        elif what == "seen":
            await writer.run(
                f"UPDATE {self.client_name} SET seen_at = %s WHERE id = %s", stored, key
            )
            if row is not None:
                work.rows[key] = (row[0], moment)
        elif what == "delete":
            await writer.run(f"DELETE FROM {self.client_name} WHERE id = %s", key)
            work.rows[key] = None
        elif what == "key" and key != other:
            await writer.run(f"DELETE FROM {self.client_name} WHERE id = %s", other)
            await writer.run(f"UPDATE {self.client_name} SET id = %s WHERE id = %s", other, key)
            work.rows[other], work.rows[key] = row, None

    @rule(who=writers)
    def savepoint(self, who):
        writer = self.writers[who]
        if writer.open is not None and writer.open.saved is None:
            self.runner.run(writer.run("SAVEPOINT one"))
            writer.open.saved = writer.open.copy()

    @rule(who=writers)
    def back_to_savepoint(self, who):
        writer = self.writers[who]
        if writer.open is not None and writer.open.saved is not None:
            self.runner.run(writer.run("ROLLBACK TO one"))
            self.runner.run(writer.run("RELEASE one"))
            writer.open.rows, writer.open.logs = writer.open.saved
            writer.open.saved = None

    @rule(who=writers)
    def commit(self, who):
        writer = self.writers[who]
        if writer.open is not None:
            self.runner.run(writer.run("COMMIT"))
            self._committed(writer.open)
            writer.open, writer.locked = None, set()

    @rule(who=writers, how=st.sampled_from(["rollback", "kill"]))
    def give_up(self, who, how):
        writer = self.writers[who]
        if writer.open is not None:
            self.runner.run(self._give_up(writer, how))
            writer.open, writer.locked = None, set()

    async def _give_up(self, writer, how):
        if how == "rollback":
            await writer.run("ROLLBACK")
            return
        process = writer.connection.info.backend_pid
        async with self.rig.engines[0].connect() as connection:
            await connection.execute(sa.select(sa.func.pg_terminate_backend(process, 5000)))
        await writer.connection.close()

    @rule(who=writers)
    def prepare(self, who):
        writer = self.writers[who]
        if writer.open is not None and self.log is QuietLog:
            name = f"p{next(self.names)}"
            self.runner.run(writer.run(f"PREPARE TRANSACTION '{name}'"))
            self.prepared[name] = writer.open, writer.locked
            writer.open, writer.locked = None, set()

    @precondition(lambda self: self.prepared)
    @rule(commits=st.booleans())
    def end_prepared(self, commits):
        name, (work, _) = next(iter(self.prepared.items()))
        self.runner.run(self._beside(f"{'COMMIT' if commits else 'ROLLBACK'} PREPARED '{name}'"))
        del self.prepared[name]
        if commits:
            self._committed(work)

    async def _beside(self, sql):
        connection = await self.rig.connect()
        await connection.execute(sql)
        await connection.close()

    def _committed(self, work):
        for key, row in work.rows.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        self.ended[work] = next(self.time)
        for line in work.logs:
            self.lines[line] = work

    # Readers

    @rule(seconds=st.sampled_from([1, 60, 600]))
    def wait(self, seconds):
        self.clock.pass_(seconds=seconds)

    def _waiting(self):
        return any(w.open for w in self.writers) or bool(self.prepared)

    @rule(limit=st.integers(1, 4), steps=st.none() | st.integers(0, 3))
    def resume(self, limit, steps):
        self.runner.run(self._resume(limit, steps))

    async def _resume(self, limit, steps):
        for reader in self.keyed:
            await reader.resume(limit, steps)
            if not (self.total and self._waiting()):
                assert reader.items == self._expected(reader)
        for reader in self.logs:
            await reader.resume(limit, steps)
            self._check_lines(reader.told)

    @rule()
    def change_process(self):
        """Clients reconnect to the other process: its places are as good."""
        self.logs[0].source, self.logs[1].source = self.logs[1].source, self.logs[0].source
        half = len(self.keyed) // 2
        for one, other in zip(self.keyed[:half], self.keyed[half:], strict=True):
            one.source, other.source = other.source, one.source

    @rule(which=st.integers(0, 1), at=st.integers(0, 50))
    def resume_from_the_tail(self, which, at):
        """A client leaves a stream in the middle, with the place of what it was sent last."""
        self.runner.run(self._from_the_tail(which, at))

    async def _from_the_tail(self, which, at):
        changes = list(self.tails[which][1].changes)
        if not changes:
            return
        at %= len(changes)
        begun = self.begun[which] if hasattr(self, "begun") else []
        reader = Lines(self.logs[which].source)
        reader.told = [*begun, *(change.item["id"] for change in changes[: at + 1])]
        reader.place, reader.epoch = changes[at].place, self.logs[which].epoch
        await reader.resume(3, None)
        self._check_lines(reader.told)

    def _check_lines(self, told):
        assert len(set(told)) == len(told)
        if not (self.total and self._waiting()):
            assert set(told) == set(self.lines)
        assert set(told) <= set(self.lines)
        # What committed before another transaction began comes before its items.
        seen = []
        for line in told:
            work = self.lines[line]
            for later in seen:
                assert not self.ended[work] < later.began
            if work not in seen[-1:]:
                seen.append(work)
        # Those of one transaction stay in order.
        for work in set(seen):
            own = [line for line in told if self.lines[line] is work]
            assert own == sorted(own)
        if self.total:
            longest = max((reader.told for reader in self.logs), key=len)
            assert told == longest[: len(told)] or longest == told[: len(longest)]

    def _expected(self, reader):
        return {
            key: (user, moment)
            for key, (user, moment) in self.rows.items()
            if user in reader.wanted
            and (reader.window is None or moment + reader.window > self.clock.now)
        }

    @rule(limit=st.integers(1, 4))
    def look_back(self, limit):
        if not (self.total and self._waiting()):
            self.runner.run(self._look_back(limit))

    async def _look_back(self, limit):
        for reader in self.keyed[:4]:
            runs = [await reader.source.page(limit)]
            while runs[-1].has_more:
                older = await reader.source.page(limit, before=runs[-1].start)
                newer = await reader.source.page(limit, after=older.end)
                first = [change.key for change in runs[-1].changes[:1]]
                if reader.window is None:
                    rows = [change.key for change in newer.changes if not change.removed]
                    assert rows[:1] == first or len(rows) < limit
                runs.append(older)
            found = [change.key["id"] for page in runs for change in page.changes]
            assert len(found) == len(set(found))
            assert set(found) == set(self._expected(reader))

    @rule()
    def follow(self):
        if not (self.total and self._waiting()):
            self.runner.run(self._follow())

    async def _follow(self):
        for (clients, logs), (keyed, lines) in zip(self.tables, self.tails, strict=True):
            clients.origin.read_on()
            logs.origin.read_on()
            await lines.until(lambda sink: len(sink.changes) >= len(self.lines))
            assert {change.item["id"] for change in lines.changes} == set(self.lines)
            self._check_lines([change.item["id"] for change in lines.changes])
            await keyed.until(lambda sink: self._held(sink) == self.rows)

    def _held(self, sink):
        held = {}
        for change in sink.changes:
            if change.removed:
                held.pop(change.key["id"], None)
            else:
                held[change.item["id"]] = change.item["user_id"], change.item["seen_at"]
        return held


class Total(Exactness):
    total = True
    log, client = Log, Client


def _settings(examples, steps):
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )


class LongExactness(Exactness):
    pass


class LongTotal(Total):
    pass


Exactness.TestCase.settings = _settings(40, 25)
Total.TestCase.settings = _settings(20, 25)
LongExactness.TestCase.settings = LongTotal.TestCase.settings = _settings(300, 40)
# Long enough to find the shortest run that fails.
TestPrompt = pytest.mark.timeout(600)(Exactness.TestCase)
TestTotal = pytest.mark.timeout(600)(Total.TestCase)
TestLongPrompt = pytest.mark.soak(pytest.mark.timeout(7200)(LongExactness.TestCase))
TestLongTotal = pytest.mark.soak(pytest.mark.timeout(7200)(LongTotal.TestCase))
