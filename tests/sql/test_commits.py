"""A tail that misses a commit is late; one that wakes for each read wastes the database."""

import pytest
from sqlalchemy import create_engine, text

from headwater.sql._commits import commits_of, writes


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (1)",
        "  update t set a = 1",
        "-- why\nDELETE FROM t",
        "/* why */ REPLACE INTO t VALUES (1)",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
        "CREATE TABLE t (a)",
        "SAVEPOINT s",
        "",
    ],
)
def test_statements_that_may_write(statement):
    assert writes(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "(SELECT 1) UNION SELECT 2",
        "/* a */ -- b\n select 1",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "PRAGMA data_version",
        "EXPLAIN QUERY PLAN DELETE FROM t",
        "VALUES (1)",
    ],
)
def test_statements_that_only_read(statement):
    assert not writes(statement)


def test_calls_come_after_commits_of_what_was_written_alone():
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE logs (a)"))
        connection.execute(text("CREATE TABLE other (a)"))
    calls = []
    commits = commits_of(engine)
    assert commits_of(engine) is commits
    end = commits.add("logs", lambda: calls.append("logs"))
    commits.add(None, lambda: calls.append("any"))
    with engine.connect() as connection:
        connection.execute(text("SELECT * FROM logs"))
        connection.commit()
        connection.execute(text("INSERT INTO logs VALUES (1)"))
        connection.rollback()
    assert calls == []
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO other VALUES (1)"))
        connection.commit()
        assert calls == []
    assert calls == ["any"]
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO logs VALUES (1)"))
    assert sorted(calls[1:]) == ["any", "logs"]
    end()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO logs VALUES (1)"))
    assert calls[3:] == ["any"]
    engine.dispose()
