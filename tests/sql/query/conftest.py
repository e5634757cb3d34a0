import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import sqlite_engine
from sql.query import shop


@pytest.fixture(params=["sqlite", *shop.LONG])
async def engine(request, tmp_path):
    """The shop on each database, by each driver."""
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
        shop.orders(engine)
        await shop.made(engine)
        yield engine
        await engine.dispose()
        return
    postgres = request.getfixturevalue("postgres")
    name = postgres.database()
    url = sa.make_url(postgres.url(name)).set(drivername=f"postgresql+{request.param}")
    engine = create_async_engine(url, pool_size=10)
    shop.orders(engine)
    await shop.made(engine)
    yield engine
    await engine.dispose()
    postgres.drop(name)
