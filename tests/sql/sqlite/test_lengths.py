"""Lengths of time, which SQLAlchemy stores as date-times on SQLite."""

from datetime import timedelta

import sqlalchemy as sa

from headwater.sql import Table, sqlite_engine, track_table


async def test_a_length_of_time_in_a_filter(tmp_path):
    """SQLAlchemy stores it as a date-time, which it is not."""
    engine = sqlite_engine(f"sqlite:///{tmp_path}/lengths.db")
    metadata = sa.MetaData()
    columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("length", sa.Interval)
    table = sa.Table("lengths", metadata, *columns)
    track_table(table, keyed=True, filters=["length"])
    day = timedelta(days=1)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(table.insert().values(id=1, length=day))
    page = await Table(engine, table).where(length=day).page(9)
    assert [change.key["id"] for change in page.changes] == [1]
    async with engine.begin() as connection:
        await connection.execute(table.delete())
    gone = await Table(engine, table).where(length=day).page(9, after=page.end)
    assert [(change.key["id"], change.removed) for change in gone.changes] == [(1, True)]
    await engine.dispose()
