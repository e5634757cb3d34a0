"""Log entries: all of a request or none, byte for byte, and from other programs too."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time

import pytest

from support.backend import Person, World, errors_of
from support.http import request


async def post(person: Person, *entries: object):
    return await person.client.post("/api/logs", json={"entries": list(entries)})


async def messages(person: Person) -> list[str]:
    page = (await person.client.get("/api/logs?limit=100")).json()
    return [entry["message"] for entry in page["logs"]]


async def test_entries_come_back_in_their_order(ann: Person, bob: Person):
    answer = await post(ann, *({"message": f"m{n}"} for n in range(50)))
    assert answer.status_code == 201
    page = (await ann.client.get("/api/logs?limit=100")).json()["logs"]
    assert [entry["message"] for entry in page] == [f"m{n}" for n in range(50)]
    assert [entry["id"] for entry in page] == answer.json()["ids"]
    assert await messages(bob) == []


async def test_a_thousand_at_once_and_no_more(ann: Person):
    answer = await post(ann, *({"message": "m"} for _ in range(1000)))
    assert answer.status_code == 201
    assert len(set(answer.json()["ids"])) == 1000
    answer = await post(ann, *({"message": "m"} for _ in range(1001)))
    errors = errors_of(answer)
    assert errors["entries"]["value"] == "1001 items"
    assert "1000" in errors["entries"]["detail"]
    assert "entries" in errors_of(await post(ann))


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"message": "m", "level": "nope"}, "level"),
        ({"message": 7}, "message"),
        ({}, "message"),
        ({"message": "x" * 16_385}, "message"),
        ({"message": "m", "source": "x" * 201}, "source"),
        ({"message": "m", "source": "two\nlines"}, "source"),
        ({"message": "m", "fields": []}, "fields"),
        ({"message": "m", "fields": {"x": "y" * 20_000}}, "fields"),
        ({"message": "m", "severity": "high"}, "severity"),
    ],
)
async def test_one_bad_entry_and_none_is_written(ann: Person, entry: dict, field: str):
    answer = await post(ann, {"message": "good"}, entry)
    errors = errors_of(answer)
    assert set(errors) == {f"entries.1.{field}"}
    assert await messages(ann) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_numbers_that_json_does_not_have(ann: Person, number: str):
    body = f'{{"entries": [{{"message": "m", "fields": {{"x": {number}}}}}]}}'
    headers = {"Content-Type": "application/json"}
    answer = await ann.client.post("/api/logs", content=body, headers=headers)
    assert set(errors_of(answer)) == {"entries.0.fields"}


async def test_fields_are_only_as_deep_as_can_be_shown(ann: Person):
    """An entry that is stored and cannot be shown would stop its owner's feed."""
    for depth in (99, 100, 300, 900):
        fields = f'{{"x": {"[" * depth}{"]" * depth}}}'
        body = f'{{"entries": [{{"message": "m", "fields": {fields}}}]}}'
        headers = {"Content-Type": "application/json"}
        answer = await ann.client.post("/api/logs", content=body, headers=headers)
        assert answer.status_code == (201 if depth < 100 else 422), depth
    detail = errors_of(answer)["entries.0.fields"]["detail"]
    assert "at most 100 objects and lists in each other" in detail
    assert len((await ann.client.get("/api/logs")).json()["logs"]) == 1


@pytest.mark.parametrize("where", ["message", "fields", "name"])
async def test_a_lone_surrogate_is_refused(ann: Person, where: str):
    value = {"message": '"\\ud800"', "fields": '{"x": "\\ud800"}', "name": '{"\\ud800": 1}'}[where]
    field = "message" if where == "message" else "fields"
    rest = "" if field == "message" else '"message": "m", '
    body = f'{{"entries": [{{{rest}"{field}": {value}}}]}}'
    headers = {"Content-Type": "application/json"}
    answer = await ann.client.post("/api/logs", content=body, headers=headers)
    assert set(errors_of(answer)) == {f"entries.0.{field}"}


TRICKY = [
    "line\nbreak\r\nand\rmore",
    "nul \x00 and bell \x07",
    "\u2028 \u2029 \x85 \ufeff",
    "😀 é \u0301",
    'data: x\n\nevent: evil\nid: 1\n\ndata: "',
    " leading and trailing ",
]


async def test_a_nul_is_refused_on_either_database(ann: Person):
    """PostgreSQL stores none. Nothing of the batch is written."""
    answer = await post(ann, {"message": "fine"}, {"message": "a\0b"})
    assert "NUL" in errors_of(answer)["entries.1.message"]["detail"]
    assert await messages(ann) == []


async def test_data_survives_byte_for_byte(served: tuple[World, int]):
    world, port = served
    ann = await world.user("ann")
    tricky = [text for text in TRICKY if "\0" not in text]
    headers = {"Cookie": ann.cookie, "Accept": "text/event-stream"}
    async with request(port, "/api/logs/stream", headers=headers) as stream:
        await stream.next()
        entries = [{"message": text, "fields": {"x": f"{text}\0", text: 1}} for text in tricky]
        assert (await post(ann, *entries)).status_code == 201
        live = [json.loads((await stream.next()).data) for _ in tricky]
    assert [entry["message"] for entry in live] == tricky
    assert [entry["fields"] for entry in live] == [entry["fields"] for entry in entries]
    assert await messages(ann) == tricky


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large(served: tuple[World, int], chunked: bool):
    """413 for who may write, 401 for who may not, and nothing is written."""
    world, port = served
    ann = await world.user("ann")
    body = json.dumps({"entries": [{"message": "x" * 2_000_000}]}).encode()

    async def parts():
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    content = parts() if chunked else body
    headers = {"Content-Type": "application/json"}
    answer = await ann.client.post("/api/logs", content=content, headers=headers)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert "1048576" in answer.json()["detail"]
    content = parts() if chunked else body
    answer = await world.anyone.post("/api/logs", content=content, headers=headers)
    assert answer.status_code == 401
    assert await messages(ann) == []


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[1]", b'"x"', b"", b"null"])
async def test_a_body_that_is_no_object(world: World, ann: Person, body: bytes):
    headers = {"Content-Type": "application/json"}
    answer = await ann.client.post("/api/logs", content=body, headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    answer = await world.anyone.post("/api/logs", content=body, headers=headers)
    assert answer.status_code == 401


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # it opens the file
class TestOtherPrograms:
    """Plain SQL from another connection, as another program does it."""

    def insert(self, world: World, statement: str, *values: object) -> None:
        connection = sqlite3.connect(world.backend.database.address.path)
        try:
            with connection:
                connection.execute(statement, values)
        finally:
            connection.close()

    async def test_their_rows_reach_the_streams_soon(self, served: tuple[World, int]):
        world, port = served
        ann = await world.user("ann")
        headers = {"Cookie": ann.cookie, "Accept": "text/event-stream"}
        waits = []
        async with request(port, "/api/logs/stream", headers=headers) as stream:
            await stream.next()
            for number in range(9):
                began = time.monotonic()
                await asyncio.to_thread(
                    self.insert,
                    world,
                    "INSERT INTO log_entries (user_id, level, source, message) VALUES (?, ?, ?, ?)",
                    ann.id,
                    "warning",
                    "cron",
                    f"m{number}",
                )
                item = json.loads((await stream.next()).data)
                waits.append(time.monotonic() - began)
                assert item["message"] == f"m{number}"
                assert (item["level"], item["source"], item["fields"]) == ("warning", "cron", {})
                assert len(item["id"]) == 32
                assert item["created_at"].endswith("Z")
        assert sorted(waits)[4] < 0.3

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("level", "nope"),
            ("message", b"bytes"),
            ("message", None),
            ("fields", "not json"),
            ("fields", "[1]"),
            ("created_at", "yesterday"),
            ("created_at", 7),
        ],
    )
    async def test_what_could_not_be_shown_is_refused(
        self, world: World, ann: Person, column: str, value: object
    ):
        row = {"user_id": ann.id, "message": "m", column: value}
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        with pytest.raises(sqlite3.IntegrityError):
            self.insert(world, f"INSERT INTO log_entries ({names}) VALUES ({marks})", *row.values())

    @pytest.mark.parametrize(
        "moment",
        ["2026-01-02 03:04:05", "2026-01-02 03:04:05.678", "2026-01-02T03:04:05Z", "2026-01-02"],
    )
    async def test_the_usual_ways_to_write_a_moment(self, world: World, ann: Person, moment: str):
        self.insert(
            world,
            "INSERT INTO log_entries (user_id, message, created_at) VALUES (?, 'm', ?)",
            ann.id,
            moment,
        )
        [entry] = (await ann.client.get("/api/logs")).json()["logs"]
        assert entry["created_at"].startswith("2026-01-02T")
        assert entry["created_at"].endswith("Z")
