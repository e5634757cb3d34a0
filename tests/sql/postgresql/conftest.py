import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from support.tables import Base


@pytest.fixture(scope="session")
def template(postgres):
    """A database with the tracked tables; copying it is faster than making them."""
    name = postgres.database()
    engine = sa.create_engine(postgres.url(name))
    Base.metadata.create_all(engine)
    engine.dispose()
    return name


@pytest.fixture
def database(postgres, template):
    name = postgres.database(template=template)
    yield name
    postgres.drop(name)


@pytest.fixture
async def engine(postgres, database):
    engine = create_async_engine(postgres.url(database), pool_size=10)
    yield engine
    await engine.dispose()


@pytest.fixture
async def session(postgres, database):
    """Opens connections beside the engine: other programs, or transactions that stay open."""
    opened = []

    async def connect(**options):
        connection = await psycopg.AsyncConnection.connect(
            postgres.conninfo(database), autocommit=True, **options
        )
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        await connection.close()
