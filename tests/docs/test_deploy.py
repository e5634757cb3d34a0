"""The deployment page: what it tells to do after a restored backup makes old positions unknown."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.errors import PositionError
from headwater.eventlog.sql import SqlLog
from headwater.sql import Table
from support.markdown import ROOT, blocks, program

PAGE = ROOT / "docs" / "deploy.md"


async def test_a_new_epoch_after_a_restored_backup(folder: Path):
    import shop  # type: ignore[import-not-found]

    log = SqlLog(shop.engine)
    async with shop.engine.begin() as connection:
        await connection.run_sync(shop.Base.metadata.create_all)
        await connection.execute(insert(shop.Order).values(city="Oslo"))
    await log.append("orders", {"n": 1})
    sources = [Table(shop.engine, shop.Order).where(), log.topic("orders")]
    pages = [await source.page(1) for source in sources]
    for source, page in zip(sources, pages, strict=True):
        await source.locate(page.epoch, str(page.end))
    await log.close()
    await shop.engine.dispose()

    database = sqlite3.connect(folder / "shop.db")
    for block in blocks(PAGE):
        if block.language == "sql":
            database.executescript(block.code)
    database.close()

    log = SqlLog(shop.engine)
    sources = [Table(shop.engine, shop.Order).where(), log.topic("orders")]
    for source, page in zip(sources, pages, strict=True):
        with pytest.raises(PositionError) as caught:
            await source.locate(page.epoch, str(page.end))
        assert caught.value.reason == "unknown"
    await log.close()
    await shop.engine.dispose()


async def test_a_new_epoch_on_postgresql(folder: Path, database: str):
    import shop

    engine = create_async_engine(os.environ["DATABASE_URL"])
    log = SqlLog(engine)
    async with engine.begin() as connection:
        await connection.run_sync(shop.Base.metadata.create_all)
        await connection.execute(insert(shop.Order).values(city="Oslo"))
    await log.append("orders", {"n": 1})
    sources = [Table(engine, shop.Order).where(), log.topic("orders")]
    pages = [await source.page(1) for source in sources]
    await log.close()

    async with program(PAGE):
        pass

    log = SqlLog(engine)
    sources = [Table(engine, shop.Order).where(), log.topic("orders")]
    for source, page in zip(sources, pages, strict=True):
        assert await source.page(1)
        with pytest.raises(PositionError) as caught:
            await source.locate(page.epoch, str(page.end))
        assert caught.value.reason == "unknown"
    await log.close()
    await engine.dispose()
    await shop.engine.dispose()
