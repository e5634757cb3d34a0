"""What is no table, or not the one it was, on both databases: said before anything is told."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.errors import DeclarationError, PositionError, SourceUnavailableError
from headwater.sql import Table, sqlite_engine
from headwater.sql.alembic import add_tracking
from support.tables import Base, Log, Recorder


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def engine(request, tmp_path):
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path / 'd.db'}")
    else:
        postgres = request.getfixturevalue("postgres")
        engine = create_async_engine(postgres.url(postgres.database()))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def test_a_view_cannot_be_followed(engine):
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE logs RENAME TO stored"))
        await connection.execute(text("CREATE VIEW logs AS SELECT * FROM stored"))
    with pytest.raises(DeclarationError, match="logs.*trigger"):
        await Table(engine, Log).origin.attach(Recorder())
    async with engine.begin() as connection:
        with pytest.raises(DeclarationError, match="is a view or a foreign table"):
            await connection.run_sync(add_tracking, "logs")


async def test_a_table_that_was_dropped_is_away_and_a_new_one_knows_no_old_positions(engine):
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (1)"))
    source = Table(engine, Log).where()
    old = await source.page(1)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["logs"].drop)
    with pytest.raises(SourceUnavailableError, match="table logs cannot be read just now"):
        await source.page(1, after=old.end)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["logs"].create)
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (2)"))
    with pytest.raises(PositionError) as caught:
        await source.locate(old.epoch, str(old.end))
    assert caught.value.reason == "unknown"
    new = await source.page(1)
    assert new.epoch != old.epoch
    assert [change.values["user_id"] for change in new.changes] == [2]
