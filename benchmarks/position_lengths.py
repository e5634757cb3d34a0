"""How long a position is, with transactions in flight.

    uv run python -m benchmarks.position_lengths

Starts a PostgreSQL server from the wheel in the temporary folder (``TMPDIR``). So many transactions
that have inserted a row stay open (prepared ones, which need no connections), and between each two
of them others commit. A client reads, stops in the middle of what it got, and so on to the end.
Prints the bytes of the longest position that it was given, all of it, as it travels in
``Last-Event-ID``: those of pages, and those of items in the middle of pages.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psycopg
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from headwater.feeds._feed import Feed  # noqa: E402
from headwater.sql import Table, track  # noqa: E402
from support.postgres import Postgres  # noqa: E402

FEED = Feed("rows", collection="rows", event="row")


class Own(DeclarativeBase):
    pass


@track(notify=False)  # with NOTIFY, PostgreSQL prepares no transactions
class Item(Own):
    __tablename__ = "position_rows"

    id: Mapped[int] = mapped_column(primary_key=True)


async def measure(server: Postgres, flying: int, between: int) -> tuple[int, int]:
    """The longest position of a page's end, and of an item."""
    insert = "INSERT INTO position_rows DEFAULT VALUES"
    name = server.database()
    engine = create_async_engine(server.url(name))
    async with engine.begin() as connection:
        await connection.run_sync(Own.metadata.create_all)
    source = Table(engine, Item).where()
    await source.page(1)
    ends = items = 0
    place = None
    with psycopg.connect(server.conninfo(name), autocommit=True) as writer:
        for number in range(max(1, flying)):
            if flying:
                writer.execute("BEGIN")
                writer.execute(insert)
                writer.execute(f"PREPARE TRANSACTION '{name}-{number}'")
            for _ in range(between or 1):
                writer.execute(insert)
            if number % 50 and number != flying - 1:
                continue
            while True:
                page = await source.page(100, after=place)
                ends = max(ends, len(FEED.position(page.epoch, page.end)))
                for change in page.changes:
                    items = max(items, len(FEED.position(page.epoch, change.place)))
                place = page.end
                if not page.has_more:
                    break
        for number in range(flying):
            writer.execute(f"ROLLBACK PREPARED '{name}-{number}'")
    await engine.dispose()
    return ends, items


def main() -> int:
    server = Postgres(max_prepared_transactions="1100")
    longest = 0
    try:
        server.create()
        server.start()
        print("| in flight | commits between each two | bytes, a page's | an item's |")
        print("| ---: | ---: | ---: | ---: |")
        for flying, between in ((0, 0), (100, 1), (100, 20), (1000, 1), (1000, 20)):
            ends, items = asyncio.run(measure(server, flying, between))
            print(f"| {flying:,} | {between:,} | {ends:,} | {items:,} |", flush=True)
            longest = max(longest, ends, items)
    finally:
        server.remove()
    return 0 if longest < 2048 else 1


if __name__ == "__main__":
    sys.exit(main())
