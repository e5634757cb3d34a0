"""What ``where()`` takes: values of the column's type, and nothing that means two things."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from headwater.errors import DeclarationError, FilterValueError
from headwater.sql import NULL, Table, sqlite_engine, track_table
from support.typed_rows import VALUES, typed_table

REFUSED = {
    "whole": ["x", "7.5", 7.5, True, 2**64, "\0", b"7", object(), [[1]], "7 "],
    "amount": ["x", "NaN", float("inf"), "1e999999999"],
    "name": ["\0", "\ud800", b"a", 1.5, True],
    "mood": ["x", 1],
    "level": ["x"],
    "unique": ["x", 7],
    "content": ["a"],
    "at": ["x", 7],
    "day": ["x"],
    "moment": ["x"],
    "flag": ["yes", 2],
    "folded": [7],
}


@pytest.fixture
def table():
    return Table(sqlite_engine("sqlite://"), typed_table("sqlite")[0])


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in REFUSED for v in REFUSED[n]])
def test_a_value_that_the_column_cannot_have_is_refused(table, name, value):
    with pytest.raises(FilterValueError, match=f"column '{name}' is of type") as caught:
        table.where(**{name: value})
    assert caught.value.name == name


@pytest.mark.parametrize("name", VALUES)
def test_none_is_refused_with_the_two_things_it_may_have_meant(table, name):
    with pytest.raises(FilterValueError) as caught:
        table.where(**{name: None})
    assert f".optional({name}={name})" in str(caught.value)
    assert f"where({name}=NULL)" in str(caught.value)
    assert table.optional(**{name: None}) == table.where()
    assert table.where().optional(**{name: None, "whole": 7}) == table.where(whole=7)
    assert table.where(**{name: NULL}) != table.where()


def test_equal_values_make_one_filter_however_they_are_written(table):
    assert table.where(whole="7") == table.where(whole=7) == table.where(whole=7.0)
    assert table.where(mood="glad") == table.where(mood="GLAD")


@pytest.mark.parametrize("kind", [sa.Float, sa.Double, sa.REAL, sa.Float(asdecimal=True)])
async def test_a_text_is_a_number_in_a_column_of_floats(kind):
    """SQLite takes a text for a number in a column alone, and asyncpg takes none."""
    rows = sa.Table("rows", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    rows.append_column(sa.Column("size", kind))
    track_table(rows, keyed=True, filters=["size"])
    table = Table(engine := sqlite_engine("sqlite://"), rows)
    assert table.where(size="1.50") == table.where(size=1.5)
    for wrong in ("x", "", "nan", b"7"):
        with pytest.raises(FilterValueError, match="column 'size' is of type"):
            table.where(size=wrong)
    async with engine.begin() as connection:
        await connection.run_sync(rows.metadata.create_all)
        await connection.execute(rows.insert().values(id=1, size=1.5))
    page = await table.where(size="1.5").page(9)
    async with engine.begin() as connection:
        await connection.execute(rows.delete())
    gone = await table.where(size="1.5").page(9, after=page.end)
    assert [change.key for change in (*page.changes, *gone.changes)] == [{"id": 1}] * 2
    await engine.dispose()


def test_json_and_arrays_cannot_be_filtered_by():
    rows = sa.Table(
        "rows",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("data", sa.JSON),
        sa.Column("tags", postgresql.ARRAY(sa.Text)),
    )
    track_table(rows)
    table = Table(sqlite_engine("sqlite://"), rows)
    for name in ("data", "tags"):
        with pytest.raises(DeclarationError, match="cannot be compared"):
            table.where(**{name: "x"})


@pytest.mark.long
def test_a_filter_of_more_values_than_a_statement_takes_is_refused(table):
    with pytest.raises(DeclarationError, match="5001 combinations"):
        table.where(whole=range_of(5001))
    with pytest.raises(DeclarationError, match="at most 5000"):
        table.where(whole=range_of(5000)) | table.where(whole=-1)
    with pytest.raises(DeclarationError, match="at most 5000"):
        table.where(whole=range_of(1000)).where(big=range_of(1000))


def range_of(count: int) -> list[int]:
    return list(range(count))
