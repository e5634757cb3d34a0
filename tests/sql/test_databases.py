"""In which databases the tables of a process are."""

import pytest
import sqlalchemy as sa
from sqlalchemy import select

from headwater.errors import DeclarationError
from headwater.sql import LiveQuery, Table, sqlite_engine, track_table


async def test_tables_of_one_metadata_may_be_in_two_databases(tmp_path):
    """As with the ``binds`` of a session: a live query over both is refused."""
    metadata = sa.MetaData()
    one, other, third = (
        sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True)) for name in "abc"
    )
    for table in (one, other, third):
        track_table(table, keyed=True)
    people, shop = (sqlite_engine(f"sqlite:///{tmp_path / name}.db") for name in ("people", "shop"))
    kept = [Table(people, one), Table(shop, other)]
    joined = select(one.c.id).join(other, other.c.id == one.c.id)
    with pytest.raises(DeclarationError, match=r"table 'a' is followed in .*people.db, table 'b' "):
        LiveQuery(people, joined, key=["id"])
    # Of the third nothing is known.
    near = select(other.c.id).join(third, third.c.id == other.c.id)
    kept.append(LiveQuery(shop, near, key=["id"]))
    # A table may be in both, as with a database for each customer.
    kept.append(Table(people, other))
    LiveQuery(people, joined, key=["id"])
