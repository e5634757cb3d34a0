"""What the how-to pages say of their examples is what these do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import delete, insert, text, update

from headwater.eventlog import MemoryLog
from headwater.web.fastapi import EventStream, LiveRouter, Source
from support.http import request
from support.markdown import ROOT, program
from support.server import serving

HOW_TO = ROOT / "docs" / "how-to"


async def test_low_level(folder: Path):
    async with program(HOW_TO / "low-level.md") as names, serving(names["app"]) as port:
        async with request(port, "/api/countdown") as answer:
            said = [(each.event, each.data) for each in await answer.rest()]
            assert said == [
                *(("message", f'{{"left":{number}}}') for number in (3, 2, 1)),
                ("lift-off", ""),
            ]
        async with request(port, "/api/weather") as answer:
            assert json.loads(await answer.body()) == {"degrees": 12}
            assert answer.headers["vary"] == "Accept"
        accept = {"Accept": "text/event-stream"}
        async with request(port, "/api/weather", headers=accept) as answer:
            assert (await answer.next()).data == '{"degrees":12}'
        for stream, told in ((False, '{"answer":"so it is"}'), (True, "so it is")):
            body = json.dumps({"text": "so it is", "stream": stream}).encode()
            kind = {"Content-Type": "application/json"}
            async with request(
                port, "/api/answers", method="POST", headers=kind, body=body
            ) as answer:
                if stream:
                    assert " ".join([each.data for each in await answer.rest()]) == told
                else:
                    assert (await answer.body()).decode() == told


async def test_subscribing_before_replaying_leaves_no_gap(folder: Path):
    """Prices are set while the replay runs, which is where the other order loses them."""
    async with program(HOW_TO / "low-level.md") as names, serving(names["app"]) as port:
        prices = names["prices"]
        prices.set(1.0)
        prices.set(2.0)
        plain = prices.since

        async def slow(last_event_id: str):
            missed = list(await plain(last_event_id))
            prices.set(3.0)
            return missed

        names["prices"].since = slow
        headers = {"Last-Event-ID": "1"}
        async with request(port, "/api/prices/stream", headers=headers) as answer:
            assert [(await answer.next()).last_event_id for _ in range(2)] == ["2", "3"]
            prices.set(4.0)
            assert (await answer.next()).last_event_id == "4"


async def test_plain_asgi(folder: Path):
    async with program(HOW_TO / "low-level.md") as names:
        plain = names["plain_app"]

        async def app(scope, receive, send):
            if scope["type"] == "http":
                await plain(scope, receive, send)

        async with serving(app, lifespan="off") as port, request(port, "/") as answer:
            assert (await answer.next()).data == "hello"


async def test_existing_application(folder: Path):
    async with program(HOW_TO / "existing-application.md") as names:
        async with serving(names["site"]) as port:
            async with request(port, "/shop/api/products") as answer:
                assert json.loads(await answer.body()) == ["tea", "kettle"]
            async with request(port, "/shop/api/sales/stream") as answer:
                assert (await answer.next()).event == "snapshot"
            async with request(port, "/shop/internal/stock/stream") as answer:
                assert answer.status == 422
            for key, status in (("wrong", 401), ("secret", 200)):
                async with request(
                    port, "/shop/internal/stock/stream", headers={"X-Key": key}
                ) as answer:
                    assert answer.status == status
            async with request(port, "/shop/openapi.json") as answer:
                assert json.loads(await answer.body())["openapi"].startswith("3.2")


async def test_starlette(folder: Path):
    key = {"X-Key": "key-of-ann"}
    async with program(HOW_TO / "starlette.md") as names, serving(names["app"]) as port:
        async with request(port, "/api/rooms/kitchen/notes") as answer:
            assert answer.status == 401
            assert answer.headers["content-type"] == "application/problem+json"
        async with request(port, "/api/rooms/kitchen/notes?limit=0", headers=key) as answer:
            assert answer.status == 422
        async with request(port, "/api/rooms/kitchen/notes/stream", headers=key) as answer:
            assert (await answer.next()).event == "snapshot"
            await names["log"].append("room:kitchen", {"text": "The kettle is on"})
            assert json.loads((await answer.next()).data)["text"] == "The kettle is on"
            names["KEYS"].clear()
            await names["live"].recheck("user:ann")
            (error,) = await answer.rest()
            assert (error.event, error.data) == ("error", '{"status":401}')
        async with request(port, "/api/countdown") as answer:
            assert [each.data for each in await answer.rest()] == [
                f'{{"left":{number}}}' for number in (3, 2, 1)
            ]


async def test_permissions(folder: Path):
    ann = {"Authorization": "Bearer key-of-ann"}
    async with program(HOW_TO / "permissions.md") as names, serving(names["app"]) as port:
        for path in ("/api/news?limit=0", "/api/news/stream?limit=0"):
            async with request(port, path) as answer:
                assert answer.status == 401
            async with request(port, path, headers=ann) as answer:
                assert answer.status == 422
        nonsense = {**ann, "Content-Type": "application/json"}
        async with request(port, "/api/news", method="POST", headers=nonsense, body=b"{") as answer:
            assert answer.status == 403
        async with request(port, "/api/news/stream", headers=ann) as answer:
            assert (await answer.next()).event == "snapshot"
            await names["take_away"]("ann", "news.read")
            (error,) = await answer.rest()
            assert (error.event, error.data) == ("error", '{"status":403}')


async def test_keyed_feeds(folder: Path):
    async with program(HOW_TO / "keyed-feeds.md") as names:
        engine, client = names["engine"], names["Client"]
        now = datetime.now(UTC).replace(tzinfo=None)

        async def commit(statement) -> None:
            async with engine.begin() as connection:
                await connection.execute(statement)

        async with engine.begin() as connection:
            await connection.run_sync(names["Base"].metadata.create_all)
        async with (
            serving(names["app"]) as port,
            request(port, "/api/clients/stream?team=delta") as answer,
        ):
            first = await answer.next()
            row = {"team": "delta", "requests": 1, "last_seen_at": now}
            item, leaves = ("client", "editor"), ("client_removed", "editor")

            async def shows(*expected) -> None:
                # Each change is shown before the next one: of two at once, only the last may be.
                told = []
                for _ in expected:
                    event = await answer.next()
                    told.append((event.event, json.loads(event.data)["name"]))
                assert told == list(expected)

            await commit(insert(client).values(name="editor", **row))
            await shows(item)
            await commit(update(client).values(requests=2))
            await shows(item)
            await commit(update(client).values(team="other"))
            await shows(leaves)
            await commit(update(client).values(team="delta"))
            await shows(item)
            # Within the window for three more seconds, which a busy machine needs for the commit.
            old = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=29, seconds=57)
            await commit(update(client).values(last_seen_at=old))
            await shows(item, leaves)
            await commit(insert(client).values(name="phone", **row))
            await shows(("client", "phone"))
            await commit(delete(client).where(client.name == "phone"))
            await shows(("client_removed", "phone"))
            after = f"/api/clients?team=delta&after={first.last_event_id}"
            async with request(port, after) as page:
                body = json.loads(await page.body())
                assert body["clients"] == []
                assert {"name": "editor"} in body["removed"]


async def test_polling(folder: Path):
    """The interval of the page is 10 s, so what is looked at is one state and who shares it."""
    async with program(HOW_TO / "polling.md") as names:
        async with names["engine"].begin() as connection:
            await connection.execute(text("CREATE TABLE activity (team, client, requests)"))
            await connection.execute(
                text("INSERT INTO activity VALUES ('a', 'x', 1), ('a', 'x', 2), ('b', 'y', 4)")
            )
        async with serving(names["app"]) as port:
            async with (
                request(port, "/api/activity/summary/stream?team=a") as one,
                request(port, "/api/activity/summary/stream?team=a") as two,
            ):
                snapshots = [await one.next(), await two.next()]
            assert snapshots[0] == snapshots[1]
            body = json.loads(snapshots[0].data)
            assert body["clients"] == [{"client": "x", "requests": 3}]
            after = f"/api/activity/summary?team=a&after={body['position']}"
            async with request(port, after) as page:
                assert json.loads(await page.body())["clients"] == []


async def test_event_logs(folder: Path):
    async with program(HOW_TO / "event-logs.md") as names:
        log = names["SqlLog"](names["engine"])
        names["log"] = log
        async with serving(names["app"]) as port:
            async with request(port, "/api/machines/7/metrics/stream") as answer:
                snapshot = json.loads((await answer.next()).data)
                percents = [each["cpu_percent"] for each in snapshot["metrics"]]
                assert percents == [3.1, 3.4, 2.9, 5.0, 9.9]
                await log.append("machine:7", {"cpu_percent": 1.0})
                assert json.loads((await answer.next()).data)["cpu_percent"] == 1.0
        await log.close()


async def test_a_table_on_postgresql(folder: Path, database: str):
    """A table with rows gets its tracking in Alembic's hands, and rows of others are streamed."""
    server = sa.create_engine(database)

    async with program(HOW_TO / "postgresql.md") as names:
        with server.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE log_entries (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
                "user_id integer NOT NULL, message text NOT NULL)"
            )
            connection.exec_driver_sql(
                "INSERT INTO log_entries (user_id, message) "
                "SELECT 7, 'old ' || n FROM generate_series(1, 3) n"
            )
        migrated(server, names["upgrade"])
        async with serving(names["app"]) as port:
            async with request(port, "/api/logs/stream?user_id=7") as answer:
                snapshot = json.loads((await answer.next()).data)
                assert [one["message"] for one in snapshot["logs"]] == ["old 1", "old 2", "old 3"]
                with server.begin() as connection:
                    connection.exec_driver_sql(
                        "INSERT INTO log_entries (user_id, message) VALUES (8, 'no'), (7, 'new')"
                    )
                assert json.loads((await answer.next()).data)["message"] == "new"
        names["Quiet"].metadata.create_all(server)
        with server.connect() as connection:
            found = connection.exec_driver_sql(
                "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname ~ '_wake_'"
            )
            assert {name for (name,) in found} == {"log_entries"}
        migrated(server, names["downgrade"])
        columns = [one["name"] for one in sa.inspect(server).get_columns("log_entries")]
        assert columns == ["id", "user_id", "message"]
    server.dispose()


def migrated(server: sa.Engine, step: Callable[[], None]) -> None:
    """Run a step of a migration, as Alembic does."""
    with server.connect() as connection:
        context = MigrationContext.configure(connection, opts={"transaction_per_migration": True})
        with context.begin_transaction(_per_migration=True), Operations.context(context):
            step()


async def test_a_convention_breach_is_found(folder: Path):
    """The page's check is green; it must be able to be red."""
    from headwater.web.convention import breaches

    async with program(HOW_TO / "testing.md") as names:
        live = LiveRouter()

        @live.get("/alone/stream", sse=True)
        async def alone(stream: EventStream): ...

        names["app"].include_router(live, prefix="/api")
        assert breaches(names["app"])


async def test_the_reset_of_a_trimmed_topic():
    """event-logs.md: trimmed away is a reset, just older than a quiet topic's end is not."""
    from headwater.errors import PositionError

    log = MemoryLog()
    await log.append("t", [{"n": n} for n in range(5)])
    topic = log.topic("t")
    page = await topic.page(5)
    places = [str(change.place) for change in page.changes]
    await log.trim("t", max_count=1)
    await topic.locate(page.epoch, places[3])
    try:
        await topic.locate(page.epoch, places[2])
    except PositionError as error:
        assert error.reason == "expired"
    else:
        raise AssertionError("a trimmed position was taken")


async def test_a_change_of_selection_brings_the_client_back(folder: Path):
    """permissions.md: the stream ends with a short retry, and no error."""
    async with program(HOW_TO / "permissions.md") as names:
        live, topics = LiveRouter(), ["one"]

        @live.feed("/mine", item=names["News"], collection="mine", event="mine")
        async def mine() -> Source:
            return names["log"].topic(topics[0])

        names["app"].include_router(live, prefix="/api")
        async with serving(names["app"]) as port, request(port, "/api/mine/stream") as answer:
            await answer.next()
            topics[0] = "two"
            await live.recheck()
            async with asyncio.timeout(10):
                assert await answer.rest() == []
            assert answer.retry is not None and answer.retry < 1000


async def test_live_queries(folder: Path):
    async with program(HOW_TO / "live-queries.md") as names, serving(names["app"]) as port:
        engine, base = names["engine"], names["Base"]
        customer, order, line = names["Customer"], names["Order"], names["Line"]

        async def write(*statements):
            async with engine.begin() as connection:
                for statement in statements:
                    await connection.execute(statement)

        async with engine.begin() as connection:
            await connection.run_sync(base.metadata.create_all)
        await write(
            insert(customer).values(id=1, tenant="a", name="Ada"),
            insert(order).values([{"id": 1, "customer_id": 1}, {"id": 2, "customer_id": 1}]),
            insert(line).values(id=1, order_id=1, total=10),
        )
        async with request(port, "/api/orders/stream?tenant=a") as answer:
            page = json.loads((await answer.next()).data)
            assert [one["total"] for one in page["orders"]] == [10, None]
            await write(insert(line).values(id=2, order_id=1, total=20))
            message = await answer.next()
            assert message.event == "order"
            assert json.loads(message.data) == {"id": 1, "name": "Ada", "total": 30}
            await write(update(customer).values(name="Ada Lovelace"))
            both = [json.loads((await answer.next()).data) for _ in range(2)]
            assert [one["name"] for one in both] == ["Ada Lovelace"] * 2
            await write(delete(order).where(order.id == 2))
            message = await answer.next()
            assert (message.event, message.data) == ("order_removed", '{"id":2}')
            assert message.last_event_id
        assert await names["clean_up"]() == 0

        def migrate(connection):
            names["upgrade"](Operations(MigrationContext.configure(connection)))

        async with engine.begin() as connection:
            await connection.run_sync(migrate)
