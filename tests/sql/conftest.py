import pytest

from headwater.sql import sqlite_engine
from support.tables import Base, Clock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.db"


@pytest.fixture
async def engine(path):
    engine = sqlite_engine(f"sqlite:///{path}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
def clock():
    return Clock()
