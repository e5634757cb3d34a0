"""A name that is no column must be refused where it is written, with the name to write instead."""

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from headwater.errors import DeclarationError
from headwater.feeds import Source
from headwater.sql import Table, track


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"

    id: Mapped[int] = mapped_column(primary_key=True)


@track()
class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("authors.id"))
    author: Mapped[Author] = relationship()

    @hybrid_property
    def title(self) -> str:
        return f"note {self.id}"


@pytest.fixture
async def notes(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/data.db")
    yield Table(engine, Note)
    await engine.dispose()


WHY = {
    "author": "it is a relationship, and rows have columns alone, such as author_id",
    "title": "it is no column of the table; its columns are id, author_id",
    "colour": "its columns are id, author_id",
}


@pytest.mark.parametrize("name", WHY)
async def test_a_filter_by_what_is_no_column(notes, name):
    with pytest.raises(DeclarationError) as caught:
        notes.where(**{name: 1})
    assert str(caught.value) == f"table 'notes' cannot be filtered by {name!r}: {WHY[name]}"


@pytest.mark.parametrize("name", WHY)
async def test_an_item_field_that_is_no_column(notes, name):
    source: Source = notes.where()
    source.check_fields(["id", "author_id"])
    with pytest.raises(DeclarationError) as caught:
        source.check_fields(["id", name])
    assert str(caught.value) == f"table 'notes' cannot fill the field {name!r}: {WHY[name]}"
