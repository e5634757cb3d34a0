"""Every way to write a row must be told: by the ORM, by plain SQL, by REPLACE and by upsert."""

import re
import sqlite3

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, UniqueConstraint, create_engine

from headwater.errors import DeclarationError
from headwater.sql import renew_epochs, track_table
from headwater.sql._migration import add_tracking


class Database:
    """A database in memory and what a reader of its changes would see."""

    def __init__(self, recursive, *columns, keyed=True, **options):
        metadata = MetaData()
        self.table = Table('odd "name" here', metadata, *columns, **options)
        filters = ("user id",) if keyed else ()
        track_table(self.table, keyed=keyed, filters=filters)
        self.engine = create_engine("sqlite://")
        metadata.create_all(self.engine)
        self.connection = self.engine.raw_connection().driver_connection
        self.connection.isolation_level = None
        self.connection.execute(f"PRAGMA recursive_triggers = {recursive}")
        self.at = 0

    def run(self, sql, *parameters):
        self.connection.execute(re.sub(r"\bT\b", '"odd ""name"" here"', sql), parameters)

    def told(self):
        """What was told since the last call: keys that left as -key, then rows, in order."""
        removals = self.connection.execute(
            "SELECT number, json_extract(key, '$.id'), json_extract(old, '$.user id') "
            "FROM headwater_removals WHERE number > ?",
            (self.at,),
        ).fetchall()
        rows = self.connection.execute(
            'SELECT headwater_change, id, "user id" FROM "odd ""name"" here" '
            "WHERE headwater_change > ?",
            (self.at,),
        ).fetchall()
        found = [(n, ("gone", key, user)) for n, key, user in removals]
        found += [(n, (key, user)) for n, key, user in rows]
        numbers = [n for n, _ in found]
        assert len(set(numbers)) == len(numbers)
        last = self.connection.execute("SELECT last FROM headwater_tables").fetchone()[0]
        assert last == max([self.at, *numbers])
        self.at = last
        return [what for _, what in sorted(found)]


def columns():
    return (
        Column("id", Integer, primary_key=True),
        Column("user id", Integer),
        Column("email", String),
        UniqueConstraint("email"),
    )


@pytest.fixture(params=["OFF", "ON"])
def recursive(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["rowid", "without rowid"])
def keyed(recursive, request):
    database = Database(recursive, *columns(), sqlite_with_rowid=request.param)
    database.run("INSERT INTO T (id, \"user id\", email) VALUES (1, 7, 'a'), (2, 7, 'b')")
    assert database.told() == [(1, 7), (2, 7)]
    yield database
    database.connection.close()


def test_update_and_delete(keyed):
    keyed.run("UPDATE T SET email = 'c' WHERE id = 1")
    assert keyed.told() == [(1, 7)]
    keyed.run("DELETE FROM T WHERE id = 1")
    assert keyed.told() == [("gone", 1, 7)]
    keyed.run("DELETE FROM T")
    assert keyed.told() == [("gone", 2, 7)]


def test_a_filter_column_that_changes_is_a_removal_first(keyed):
    keyed.run('UPDATE T SET "user id" = "user id" + 1')
    assert keyed.told() == [("gone", 1, 7), (1, 8), ("gone", 2, 7), (2, 8)]
    keyed.run('UPDATE T SET "user id" = NULL WHERE id = 1')
    assert keyed.told() == [("gone", 1, 8), (1, None)]
    keyed.run('UPDATE T SET "user id" = NULL WHERE id = 1')
    assert keyed.told() == [(1, None)]


def test_a_key_that_changes_is_a_removal_first(keyed):
    keyed.run("UPDATE T SET id = 9 WHERE id = 1")
    assert keyed.told() == [("gone", 1, 7), (9, 7)]


def without_repeats(told):
    return list(dict.fromkeys(told))


def test_replace_tells_what_it_deletes(keyed):
    keyed.run("INSERT OR REPLACE INTO T VALUES (1, 8, 'a', NULL)")
    assert without_repeats(keyed.told()) == [("gone", 1, 7), (1, 8)]
    keyed.run("REPLACE INTO T VALUES (3, 7, 'a', NULL)")  # by the unique column
    assert without_repeats(keyed.told()) == [("gone", 1, 8), (3, 7)]
    keyed.run("REPLACE INTO T VALUES (2, 7, 'a', NULL)")  # by the key and by the unique column
    assert without_repeats(keyed.told())[-2:] == [("gone", 3, 7), (2, 7)]


def test_replace_by_update_tells_what_it_deletes(keyed):
    keyed.run("UPDATE OR REPLACE T SET email = 'b' WHERE id = 1")
    assert without_repeats(keyed.told()) == [("gone", 2, 7), (1, 7)]
    keyed.run("INSERT INTO T VALUES (5, 8, 'e', NULL)")
    keyed.told()
    keyed.run("UPDATE OR REPLACE T SET id = 5 WHERE id = 1")
    assert without_repeats(keyed.told()) == [("gone", 5, 8), ("gone", 1, 7), (5, 7)]


def test_what_replaces_nothing_tells_nothing(keyed):
    keyed.run("INSERT OR IGNORE INTO T VALUES (1, 8, 'z', NULL)")
    keyed.run("INSERT OR IGNORE INTO T VALUES (9, 8, 'a', NULL)")
    keyed.run("INSERT INTO T VALUES (9, 8, 'a', NULL) ON CONFLICT DO NOTHING")
    keyed.run("UPDATE OR IGNORE T SET email = 'b' WHERE id = 1")
    with pytest.raises(sqlite3.IntegrityError):
        keyed.run("INSERT INTO T VALUES (1, 8, 'z', NULL)")
    assert keyed.told() == []
    keyed.run("UPDATE T SET email = 'x' WHERE id = 2")
    assert keyed.told() == [(2, 7)]


def test_an_upsert_is_an_update(keyed):
    keyed.run(
        "INSERT INTO T VALUES (9, 7, 'a', NULL) ON CONFLICT (email) DO UPDATE SET email = 'aa'"
    )
    assert keyed.told() == [(1, 7)]
    keyed.run(
        "INSERT INTO T VALUES (1, 8, 'c', NULL) "
        'ON CONFLICT (id) DO UPDATE SET "user id" = excluded."user id"'
    )
    assert keyed.told() == [("gone", 1, 7), (1, 8)]


def test_the_number_cannot_be_written_by_hand(keyed):
    with pytest.raises(sqlite3.IntegrityError, match="set by Headwater alone"):
        keyed.run("UPDATE T SET headwater_change = 1")
    with pytest.raises(sqlite3.IntegrityError, match="set by Headwater alone"):
        keyed.run("UPDATE T SET headwater_change = NULL")
    keyed.run("INSERT INTO T VALUES (4, 7, 'd', 1)")
    assert keyed.told() == [(4, 7)]


def test_a_rollback_takes_the_numbers_back(keyed):
    keyed.connection.execute("BEGIN")
    keyed.run("DELETE FROM T")
    keyed.connection.execute("ROLLBACK")
    assert keyed.told() == []


def test_a_binary_value_in_a_text_column_does_not_stop_a_delete(keyed):
    keyed.run("UPDATE T SET \"user id\" = x'00ff' WHERE id = 1")
    keyed.told()
    keyed.run("DELETE FROM T WHERE id = 1")
    assert keyed.told() == [("gone", 1, '["00FF"]')]


def test_append_only_tells_inserts_alone(recursive):
    database = Database(recursive, *columns(), keyed=False)
    database.run("INSERT INTO T VALUES (1, 7, 'a', NULL), (2, 7, 'b', 55)")
    assert database.told() == [(1, 7), (2, 7)]
    database.run("UPDATE T SET email = 'c' WHERE id = 1")
    database.run("DELETE FROM T WHERE id = 2")
    database.run("INSERT INTO T VALUES (1, 7, 'x', NULL) ON CONFLICT DO UPDATE SET email = 'y'")
    assert database.told() == []
    database.run("REPLACE INTO T VALUES (1, 7, 'z', NULL)")
    assert database.told() == [(1, 7)]
    database.connection.close()


@pytest.mark.parametrize("with_rowid", [True, False])
def test_composite_keys(recursive, with_rowid):
    database = Database(
        recursive,
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("user id", Integer, primary_key=True),
        sqlite_with_rowid=with_rowid,
    )
    database.run("INSERT INTO T VALUES (1, 1, NULL), (1, 2, NULL)")
    assert database.told() == [(1, 1), (1, 2)]
    database.run('UPDATE T SET "user id" = 3 WHERE "user id" = 2')
    assert database.told() == [("gone", 1, 2), (1, 3)]
    database.run("REPLACE INTO T VALUES (1, 1, NULL)")
    assert without_repeats(database.told())[-1] == (1, 1)
    database.connection.close()


def test_a_table_made_anew_has_another_epoch():
    metadata = MetaData()
    table = Table("t", metadata, Column("id", Integer, primary_key=True))
    track_table(table)
    engine = create_engine("sqlite://")
    epochs = set()
    with engine.begin() as connection:
        for _ in range(2):
            metadata.create_all(connection)
            epochs |= set(
                connection.exec_driver_sql("SELECT epoch FROM headwater_tables").scalars()
            )
            table.drop(connection)
            assert not connection.exec_driver_sql("SELECT * FROM headwater_tables").all()
        metadata.create_all(connection)
        renew_epochs(connection)
        epochs |= set(connection.exec_driver_sql("SELECT epoch FROM headwater_tables").scalars())
        assert len(epochs) == 3
        # A name that is not there would leave positions from before a restore valid.
        for wrong, said in (("t", "one name"), (["t", "x"], "'x' is not tracked")):
            with pytest.raises(DeclarationError, match=said):
                renew_epochs(connection, wrong)
        metadata.drop_all(connection)
        assert not connection.exec_driver_sql("SELECT name FROM sqlite_master").all()
    engine.dispose()


def test_a_long_numbering_says_how_far_it_is():
    """Whoever runs the migration of a large table wants to see that it goes on."""
    engine = create_engine("sqlite://")
    told = []
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE old (id INTEGER PRIMARY KEY, n)")
        connection.exec_driver_sql(
            "WITH RECURSIVE some(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM some LIMIT 2500) "
            "INSERT INTO old (n) SELECT n FROM some"
        )
        add_tracking(connection, "old", progress=lambda done, total: told.append((done, total)))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
    engine.dispose()
