"""What live queries need of a database, and the sentences for queries that cannot work."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.errors import DeclarationError, SourceUnavailableError
from headwater.sql import LiveQuery, sqlite_engine, track, track_table
from headwater.sql.alembic import add_tracking
from headwater.web.fastapi import LiveRouter, Source
from sql.query.shop import Line, Order, orders
from sql.query.test_whole_feeds import OrderItem
from support.application import Application
from support.http import request
from support.server import serving

APP = """
from fastapi import FastAPI
from headwater.sql import LiveQuery, sqlite_engine, track, track_table
from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase): ...

@track(keyed=True)
class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]

@track(keyed=True)
class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))

engine = sqlite_engine("sqlite:///data.db")
BOOKS = LiveQuery(engine, select(Book.id, Author.name).join(Author), key=["id"])
app = FastAPI()
"""


def check(folder):
    command = [sys.executable, "-m", "headwater", "check", "books:app", "--database"]
    return subprocess.run(
        [*command, "sqlite:///data.db"], cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.mark.long
def test_check_prints_what_each_query_needs_and_what_is_missing(tmp_path):
    (tmp_path / "books.py").write_text(APP)
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'data.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT)")
        connection.exec_driver_sql("CREATE TABLE books (id INTEGER PRIMARY KEY, author_id INTEGER)")
        add_tracking(connection, "authors", keyed=True, links=["id"])
        add_tracking(connection, "books", keyed=True)
    needs = (
        "live query of books, authors needs the links books (author_id, id), authors (id); no "
        "index begins with books.author_id\n"
    )
    lacking = check(tmp_path)
    call = "headwater.sql.alembic.add_tracking(op, 'books', keyed=True, links=['author_id', 'id'])"
    assert lacking.returncode == 1, lacking.stderr
    assert lacking.stdout == (
        f"{needs}live query of books, authors: the database does not track author_id, id of table "
        f"'books' as links; call {call} in a migration\n"
    )
    with engine.begin() as connection:
        add_tracking(connection, "books", keyed=True, links=["author_id", "id"])
        connection.exec_driver_sql("CREATE INDEX by_author ON books (author_id)")
    good = check(tmp_path)
    assert good.returncode == 0, good.stdout
    assert "no index begins" not in good.stdout
    engine.dispose()


class Base(DeclarativeBase):
    pass


class Untracked(Base):
    __tablename__ = "untracked"

    id: Mapped[int] = mapped_column(primary_key=True)


@track()
class Appended(Base):
    __tablename__ = "appended"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id))


@pytest.mark.parametrize(
    ("query", "key", "said"),
    [
        (select(Untracked.id), "id", "table 'untracked' is not tracked"),
        (select(Appended.id), "id", "table 'appended' is tracked append-only"),
        (
            select(Order.id, Line.total).join(Line, Line.order_id == Order.id),
            "id",
            "the key id is not unique: it may be joined with several rows of 'lines'",
        ),
    ],
)
async def test_a_query_that_cannot_be_followed_is_refused_when_it_is_declared(
    tmp_path, query, key, said
):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
    with pytest.raises(DeclarationError, match=said):
        LiveQuery(engine, query, key=[key])
    await engine.dispose()


async def test_an_item_model_with_a_column_that_the_query_lacks_is_refused(engine):
    query, live = LiveQuery(engine, select(Order.id), key=["id"]), LiveRouter()
    with pytest.raises(DeclarationError, match="cannot fill the field 'name'"):

        @live.feed("/orders", item=OrderItem, keyed=True)
        async def listed() -> Source:
            return query.where()


async def test_a_column_that_vanished_is_a_503_with_a_sentence_and_never_a_500(engine):
    query, live = orders(engine), LiveRouter()

    @live.feed("/orders", item=OrderItem, event="order", keyed=True)
    async def listed() -> Source:
        return query.where()

    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE customers DROP COLUMN name"))
    async with serving(Application(live)) as port:
        async with request(port, "/orders") as answer:
            body = await answer.body()
            assert answer.status == 503, body
        async with request(port, "/orders/stream") as answer:
            await answer.body()
            assert (answer.status, "retry-after" in answer.headers) == (200, True)
    with pytest.raises(SourceUnavailableError, match="column|migrated"):
        await query.where().page(1)


async def test_the_call_that_adds_links_keeps_the_filters_of_the_table(tmp_path):
    """Without them the call would drop the filters from the tracking."""
    engine = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
    columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("place", sa.Integer)
    seats = sa.Table("seats", sa.MetaData(), *columns)
    track_table(seats, keyed=True, filters=["place"])
    options = {"keyed": True, "filters": ["place"], "links": ["place"]}
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE seats (id INTEGER PRIMARY KEY, place INT)")
        await connection.run_sync(lambda sync: add_tracking(sync, "seats", **options))
    query = LiveQuery(engine, select(seats), key=["id"])
    with pytest.raises(DeclarationError, match=r"'seats', keyed=True, filters=\['place'\], links="):
        await query.where().page(9)
    await engine.dispose()
