import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import sqlite_engine
from sql.query import shop


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def engine(request, tmp_path):
    """The shop on each database."""
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
        shop.orders(engine)
        await shop.made(engine)
        yield engine
        await engine.dispose()
        return
    postgres = request.getfixturevalue("postgres")
    name = postgres.database()
    engine = create_async_engine(postgres.url(name), pool_size=10)
    shop.orders(engine)
    await shop.made(engine)
    yield engine
    await engine.dispose()
    postgres.drop(name)
