"""The writers, and what they committed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg


@dataclass
class Written:
    """What was committed: for each row its transaction, with when that began and ended."""

    rows: dict[int, int] = field(default_factory=dict)
    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    long: int = -1


async def write(
    conninfo: str, writer: int, dice: random.Random, written: Written, rows: int
) -> None:
    while len(written.rows) < rows:
        try:
            async with await psycopg.AsyncConnection.connect(conninfo) as connection:
                while len(written.rows) < rows:
                    await transaction(connection, writer, dice, written)
        except psycopg.OperationalError:
            await asyncio.sleep(0.02)


async def transaction(
    connection: psycopg.AsyncConnection[Any], writer: int, dice: random.Random, written: Written
) -> None:
    insert = "INSERT INTO exactness_rows (writer) VALUES (%s) RETURNING id"
    await asyncio.sleep(dice.uniform(0, 0.1))
    began, own = time.time(), []
    for _ in range(dice.randint(1, 5)):
        if dice.random() < 0.2:
            await connection.execute("SAVEPOINT one")
            await connection.execute(insert, (writer,))
            await connection.execute("ROLLBACK TO one")
        row = await (await connection.execute(insert, (writer,))).fetchone()
        assert row is not None
        own.append(row[0])
        if dice.random() < 0.3:
            await asyncio.sleep(dice.uniform(0, 0.02))
    if dice.random() < 0.1:
        await connection.rollback()
        return
    await connection.commit()
    note(written, own, began)


def note(written: Written, own: Sequence[int], began: float) -> None:
    number = len(written.began)
    written.began.append(began)
    written.ended.append(time.time())
    written.rows.update(dict.fromkeys(own, number))


async def long_one(conninfo: str, written: Written, seconds: float) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        began = time.time()
        found = await connection.execute(
            "INSERT INTO exactness_rows (writer) VALUES (-1), (-1) RETURNING id"
        )
        own = [row[0] for row in await found.fetchall()]
        await asyncio.sleep(seconds)
        await connection.commit()
        written.long = len(written.began)
        note(written, own, began)
