"""``REPLACE`` removes rows by any unique index. SQLite says by which; each one is reported."""

import sqlite3

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headwater.errors import SourceUnavailableError
from headwater.sql import Table, sqlite_engine, track_table
from headwater.sql.alembic import add_tracking
from headwater.sql.sqlite._uniques import terms_of

INDEXES = {
    "plain": "(name)",
    "partial": "(name) WHERE owner = 1",
    "expression": "(lower(name), owner)",
    "partial expression": "(upper(name) DESC) WHERE name <> 'a,)' AND owner IN (1, 2)",
    "collation": "(name COLLATE NOCASE)",
    "two columns": "(owner, name)",
    "generated": "(twice)",
}
NAMES = st.sampled_from(["a", "A", "b", "B", "a,)", None])
ROW = st.tuples(st.integers(1, 4), st.integers(1, 3), NAMES)
INSERT = "INSERT INTO t (id, owner, name) VALUES (?, ?, ?)"
GIVE = "UPDATE OR REPLACE t SET owner = ? WHERE id = ?"
MOVE = "UPDATE OR REPLACE t SET rowid = ? WHERE id = ?"
STEP = st.one_of(
    st.tuples(st.just("INSERT OR REPLACE INTO t (id, owner, name) VALUES (?, ?, ?)"), ROW),
    st.tuples(st.just("INSERT OR IGNORE INTO t (id, owner, name) VALUES (?, ?, ?)"), ROW),
    st.tuples(st.just(INSERT), ROW),
    st.tuples(
        st.just("INSERT INTO t (id, owner, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"), ROW
    ),
    st.tuples(
        st.just("UPDATE OR REPLACE t SET name = ? WHERE id = ?"),
        st.tuples(NAMES, st.integers(1, 4)),
    ),
    st.tuples(
        st.just("UPDATE OR REPLACE t SET id = ?, owner = ? WHERE id = ?"),
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)),
    ),
    st.tuples(st.just(MOVE), st.tuples(st.integers(1, 4), st.integers(1, 4))),
    st.tuples(st.just(GIVE), st.tuples(st.integers(1, 3), st.integers(1, 4))),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(INDEXES)), unique=True, max_size=3),
    st.lists(STEP, max_size=12),
    st.booleans(),
)
@example(["generated"], [(INSERT, (1, 1, "a")), (INSERT, (2, 2, "a")), (GIVE, (2, 1))], True)
@example([], [(INSERT, (1, 1, "a")), (INSERT, (2, 2, "a")), (MOVE, (2, 1))], True)
def test_what_left_is_what_is_reported(indexes, steps, with_rowid):
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        own = "" if with_rowid else " WITHOUT ROWID"
        connection.exec_driver_sql(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, owner INTEGER, name TEXT, "
            f"twice INTEGER AS (owner * 2)){own}"
        )
        for at, name in enumerate(indexes):
            connection.exec_driver_sql(f"CREATE UNIQUE INDEX i{at} ON t {INDEXES[name]}")
        add_tracking(connection, "t", keyed=True, filters=["owner"])

        def rows():
            return dict(connection.exec_driver_sql("SELECT id, owner FROM t").all())

        def removals(after):
            query = """SELECT json_extract(key, '$.id'), json_extract(old, '$.owner')
            FROM headwater_removals WHERE number > ?"""
            return set(connection.exec_driver_sql(query, (after,)).all())

        for sql, values in steps:
            if sql == MOVE and not with_rowid:
                continue
            before = rows()
            last = connection.exec_driver_sql("SELECT last FROM headwater_tables").scalar()
            try:
                connection.exec_driver_sql(sql, values)
            except sa.exc.IntegrityError:
                continue
            after, told = rows(), removals(last)
            left = {one for one in before.items() if after.get(one[0]) != one[1]}
            # A row that came back with the same owner may be reported: its new version follows.
            assert left <= told
            assert told - left <= set(after.items())
            back = {key for key, _ in told} & after.keys()
            newer = connection.exec_driver_sql(
                "SELECT id FROM t WHERE headwater_change > ?", (last,)
            )
            assert back <= set(newer.scalars())
    engine.dispose()


def test_a_plain_insert_beside_a_partial_index_removes_nothing():
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, owner INTEGER, x TEXT)")
        connection.exec_driver_sql("CREATE UNIQUE INDEX i ON t (x) WHERE owner = 1")
        add_tracking(connection, "t", keyed=True)
        connection.exec_driver_sql("INSERT INTO t VALUES (1, 2, 'a', NULL), (2, 2, 'a', NULL)")
        assert connection.exec_driver_sql("SELECT count(*) FROM headwater_removals").scalar() == 0
    engine.dispose()


async def test_an_index_that_is_added_later_is_noticed(tmp_path):
    metadata = sa.MetaData()
    rows = sa.Table(
        "t", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Text)
    )
    track_table(rows, keyed=True)
    engine = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    table = Table(engine, rows)
    await table.where().page(1)
    other = sqlite3.connect(tmp_path / "data.db")
    other.execute("CREATE UNIQUE INDEX later ON t (lower(x))")
    with pytest.raises(SourceUnavailableError, match="other columns or indexes"):
        await table.where().page(1)
    other.close()
    async with engine.begin() as connection:
        await connection.run_sync(add_tracking, "t", keyed=True)
        await connection.exec_driver_sql("INSERT INTO t (id, x) VALUES (1, 'a')")
    start = await table.where().page(1)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("REPLACE INTO t (id, x) VALUES (2, 'A')")
    page = await table.where().page(5, after=start.end)
    assert [(c.removed, c.key["id"]) for c in page.changes] == [(True, 1), (False, 2)]
    await engine.dispose()


TERMS = {
    "CREATE UNIQUE INDEX i ON t (a, b DESC)": (["a", "b"], None),
    'CREATE UNIQUE INDEX "i(" ON "t,(" (lower(")a"), [b,]) where b>1': (
        ['lower(")a")', "[b,]"],
        "b>1",
    ),
    "CREATE UNIQUE INDEX i ON t (a /* , ) */, 'x,''y' || b -- (\n asc)": (
        ["a", "'x,''y' || b"],
        None,
    ),
}


@pytest.mark.parametrize("sql", TERMS)
def test_the_terms_of_an_index(sql):
    assert terms_of(sql) == TERMS[sql]
