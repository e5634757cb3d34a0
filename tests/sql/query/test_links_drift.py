"""The triggers of links drift as others do: the live query says so, and add_tracking mends it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from headwater.errors import PositionError
from headwater.sql._migration import drifts
from headwater.sql.alembic import add_tracking
from sql.query.shop import DRIVERS, Customer, Line, Order, orders, write
from support.tables import fails

CALL = "add_tracking(op, 'lines', keyed=True)"


async def run(engine, *statements):
    async with engine.begin() as connection:
        for sql in statements:
            await connection.exec_driver_sql(sql)


def damage(engine, kind):
    """What somebody does to the links' triggers of the lines, and the sentence for it."""
    lite = engine.dialect.name == "sqlite"
    if kind == "dropped" and lite:
        return "DROP TRIGGER headwater_lines_link_delete", "trigger 'link_delete' is gone"
    if kind == "dropped":
        return 'DROP TRIGGER "~headwater_lines_link_deleted" ON lines', "'link_deleted' is gone"
    if kind == "disabled":
        return (
            'ALTER TABLE lines DISABLE TRIGGER "~headwater_lines_link_moved"',
            "is not enabled for all writers",
        )
    return (
        "CREATE OR REPLACE FUNCTION headwater_lines_former() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RETURN NULL; END'",
        "the function 'headwater_lines_former' is another one",
    )


# SQLite has neither disabled triggers nor functions of triggers.
@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        ("sqlite", "dropped"),
        *(
            pytest.param(driver, kind, marks=pytest.mark.long)
            for driver in DRIVERS
            for kind in ("dropped", "disabled", "edited")
        ),
    ],
    indirect=["engine"],
)
async def test_a_trigger_of_links_that_drifted_is_found_and_mended(engine, kind):
    query = orders(engine)
    before = await query.where().page(9)
    sql, sentence = damage(engine, kind)
    await run(engine, sql)
    await fails(query, sentence, CALL)
    async with engine.connect() as connection:
        listed = await connection.run_sync(
            drifts, [Customer.__table__, Order.__table__, Line.__table__]
        )
    assert [(each.table, each.call) for each in listed] == [("lines", CALL)]
    assert sentence in str(listed[0])
    await write(engine, sa.delete(Line).where(Line.id == 1))
    async with engine.begin() as connection:
        await connection.run_sync(add_tracking, "lines", keyed=True)
    # A delete was missed, so a client from before gets a reset.
    with pytest.raises(PositionError):
        await query.where().locate(before.epoch, str(before.end))
    after = await query.where().page(9)
    assert [change.item["total"] for change in after.changes] == [None, 20, 30, None]
    await write(engine, sa.delete(Line).where(Line.id == 2))
    changed = await query.where().page(9, after=after.end)
    assert [(change.key["id"], change.item["total"]) for change in changed.changes] == [(2, None)]


async def test_a_renamed_table_keeps_one_set_of_triggers_of_links(engine):
    await run(engine, "ALTER TABLE lines RENAME TO positions")
    async with engine.begin() as connection:
        await connection.run_sync(add_tracking, "positions", keyed=True, links=["order_id"])
    await run(engine, "DELETE FROM positions WHERE id = 1")
    async with engine.connect() as connection:
        found = await connection.scalar(sa.text("SELECT count(*) FROM headwater_former_links"))
    assert found == 1
