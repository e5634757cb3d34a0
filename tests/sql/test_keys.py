"""Keys of removals are the rows' own, whatever type they have and whoever deletes them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import Table, sqlite_engine, track_table
from support.tables import Recorder
from support.typed_rows import RawUuid

SESSIONS = [
    "SET LOCAL timezone = 'Asia/Kathmandu'",
    "SET LOCAL datestyle = 'German'",
    "SET LOCAL extra_float_digits = -10",
    "SET LOCAL bytea_output = 'escape'",
    "SET LOCAL intervalstyle = 'iso_8601'",
]
KEYS = {
    "moment": (sa.DateTime(timezone=True), datetime(2026, 3, 1, 12, 0, 0, 1, UTC)),
    "raw": (RawUuid, uuid.UUID(int=2**127 + 1)),
    "real": (sa.Float, 1 / 3),
    "text": (sa.String, "'\"\\ü"),
    "big": (sa.BigInteger, 2**63 - 1),
    "content": (sa.LargeBinary, b"\0\xff"),
}


def made():
    metadata = sa.MetaData()
    columns = [sa.Column(name, kind, primary_key=True) for name, (kind, _) in KEYS.items()]
    table = sa.Table("things", metadata, *columns, sa.Column("n", sa.Integer))
    track_table(table, keyed=True)
    return table, metadata


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def engine(request, tmp_path):
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
        yield engine
        await engine.dispose()
        return
    postgres = request.getfixturevalue("postgres")
    name = postgres.database()
    engine = create_async_engine(postgres.url(name))
    yield engine
    await engine.dispose()
    postgres.drop(name)


@pytest.mark.parametrize("how", ["update", "insert", "upsert"])
async def test_keys_that_the_database_takes_for_the_same(engine, how):
    """To a client A and a are two items: the one leaves when the other comes in its place."""
    metadata = sa.MetaData()
    sqlite = engine.dialect.name == "sqlite"
    kind = sa.String(collation="NOCASE") if sqlite else CITEXT()
    table = sa.Table(
        "words", metadata, sa.Column("word", kind, primary_key=True), sa.Column("n", sa.Integer)
    )
    track_table(table, keyed=True)
    words = Table(engine, table)
    async with engine.begin() as connection:
        if not sqlite:
            await connection.execute(sa.text("CREATE EXTENSION citext"))
        await connection.run_sync(metadata.create_all)
        await connection.execute(table.insert().values(word="a", n=1))
    statements = {
        "update": ["UPDATE words SET word = 'A'"],
        "insert": ["DELETE FROM words", "INSERT INTO words (word, n) VALUES ('A', 2)"],
        "upsert": [
            "REPLACE INTO words (word, n) VALUES ('A', 2)"
            if sqlite
            else "INSERT INTO words (word, n) VALUES ('A', 2) "
            "ON CONFLICT (word) DO UPDATE SET word = excluded.word"
        ],
    }
    first, tail = await words.where().page(9), Recorder()
    await words.origin.attach(tail)
    async with engine.begin() as connection:
        for each in statements[how]:
            await connection.execute(sa.text(each))
    await tail.count(2)
    await words.origin.detach()
    resumed = await words.where().page(9, after=first.end)
    for changes in (tail.changes, resumed.changes):
        assert [(c.removed, c.key["word"]) for c in changes] == [(True, "a"), (False, "A")]


async def test_a_removal_has_the_key_of_its_row(engine):
    table, metadata = made()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    key = {name: value for name, (_, value) in KEYS.items()}
    if engine.dialect.name == "sqlite":
        # SQLAlchemy keeps no time zone there.
        key["moment"] = key["moment"].replace(tzinfo=None)
    source = Table(engine, table)
    recorder = Recorder()
    await source.origin.attach(recorder)
    settings = ["SELECT 1", *(SESSIONS if engine.dialect.name == "postgresql" else ())]
    try:
        for setting in settings:
            async with engine.begin() as connection:
                await connection.exec_driver_sql(setting)
                await connection.execute(sa.insert(table).values(**key, n=1))
                await connection.execute(sa.delete(table))
        await recorder.until(lambda it: sum(c.removed for c in it.changes) == len(settings))
    finally:
        await source.origin.detach()
    assert [c.key for c in recorder.changes if c.removed] == [key] * len(settings)
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT key FROM headwater_removals")
        assert len({str(row[0]) for row in found}) == 1, "the sessions wrote different keys"
