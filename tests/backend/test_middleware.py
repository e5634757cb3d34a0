"""What holds for every request, whatever it asks for."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest
from fastapi import Request

from headwater.backend.app import create_app
from headwater.web.fastapi import LiveRouter
from support.backend import Person, World, cheap, errors_of, listening, running


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # the database has no part in it
class TestMethods:
    @pytest.mark.parametrize(
        ("path", "allow"),
        [
            ("/api/users", {"GET", "HEAD", "POST"}),
            ("/api/users/me/api-keys", {"GET", "HEAD", "POST"}),
            ("/api/satellites", {"GET", "HEAD", "POST"}),
            ("/api/teams/x/members/y", {"PUT", "DELETE"}),
            ("/api/auth/login", {"POST"}),
            ("/", {"GET", "HEAD"}),
        ],
    )
    async def test_a_wrong_method_is_told_all_right_ones(self, world: World, path, allow):
        answer = await world.anyone.request("TRACE" if path == "/" else "PROPFIND", path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == allow
        assert len(answer.headers.get_list("allow")) == 1

    async def test_what_can_be_got_can_be_asked_for_its_head(self, served):
        """As monitors do it with ``/healthz``."""
        world, port = served
        ann = await world.user("ann")
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Cookie": ann.cookie}
        ) as client:
            for path in ("/healthz", "/readyz", "/api/users/me", "/api/logs", "/docs"):
                answer = await client.head(path)
                assert (answer.status_code, answer.content) == (200, b""), path
                assert int(answer.headers["content-length"])
            answer = await client.head("/api/auth/login")
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")

    async def test_a_feed_has_head_and_post(self, world: World):
        answer = await world.anyone.request("PUT", "/api/logs")
        assert answer.status_code == 405
        assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))

    @pytest.mark.parametrize("path", ["/api/logs/", "/docs/", "/api/users/"])
    async def test_nobody_is_redirected_to_the_host_of_a_request(self, world: World, path):
        answer = await world.anyone.get(path, headers={"Host": "evil.example"})
        assert answer.status_code == 404
        assert "location" not in answer.headers

    async def test_what_is_somebodys_own_is_kept_by_nobody(self, world: World):
        admin = await world.admin()
        key = await admin.client.post("/api/users/me/api-keys", json={"name": "k"})
        agent = await admin.client.post("/api/satellites", json={"name": "s"})
        paths = ("users", "users/me", "users/me/api-keys", "satellites", "teams", "users/me/teams")
        for answer in [key, agent, *[await admin.client.get(f"/api/{path}") for path in paths]]:
            assert answer.headers["cache-control"] == "no-store"
        assert (await world.anyone.get("/api/users")).headers["cache-control"] == "no-store"


async def test_bodies_of_one_caller_that_are_held_are_bounded(database):
    """Each may come slowly, for minutes, and is in memory until then."""
    settings = cheap(database, max_body_bytes=1024)
    async with listening(settings) as (world, port), AsyncExitStack() as stack:
        ann, bob = await world.user("ann"), await world.user("bob")
        held = []

        async def begin(person: Person) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.transport.abort)
            head = f"POST /api/logs HTTP/1.1\r\nHost: x\r\nCookie: {person.cookie}\r\n"
            writer.write(f"{head}Content-Length: 1024\r\n\r\n{'x' * 1023}".encode())
            return reader, writer

        async def status(reader: asyncio.StreamReader) -> int:
            async with asyncio.timeout(10):
                return int((await reader.readline()).split(b" ")[1])

        for _ in range(17):
            held.append(await begin(ann))
        answers = [asyncio.create_task(status(reader)) for reader, _ in held]
        done, waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [429]
        assert len(waiting) == 16
        for _, writer in [*held, other := await begin(bob)]:
            writer.write(b"x")
        assert {await task for task in waiting} | {await status(other[0])} == {422}
        reader, writer = await begin(ann)
        writer.write(b"x")
        assert await status(reader) == 422


async def test_only_the_backends_own_cookies_are_parsed(database):
    """Some versions of Python need seconds for a long one in quotes; anyone may send one."""
    found: list[dict[str, str]] = []

    def declare(live: LiveRouter) -> None:
        @live.get("/cookies")
        async def cookies(request: Request) -> None:
            found.append(request.cookies)

    settings = cheap(database)
    async with running(settings, create_app(settings, declare=declare)) as world:
        for sent in (
            "a=b; session=abc; other=1; device=def",
            'device=def; session=abc; session="\\\\101"; x="\\"',
            'session=abc;device=def;session="abc',
        ):
            await world.anyone.get("/api/cookies", headers={"Cookie": sent})
    assert found == [{"session": "abc", "device": "def"}] * 3


async def test_only_pages_of_allowed_origins_call(database):
    ours, preflight = "https://app.example.com", {"Access-Control-Request-Method": "GET"}
    async with running(cheap(database, allowed_origins=ours)) as world:
        for origin, status in ((ours, 200), ("https://evil.example", 400), ("null", 400)):
            headers = {"Origin": origin, **preflight}
            answer = await world.anyone.options("/api/logs", headers=headers)
            assert answer.status_code == status
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (ours if status == 200 else None)
            if status == 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["detail"].startswith("Disallowed CORS origin")


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # the database has no part in it
async def test_a_fault_of_this_side_is_counted(
    world: World, admin: Person, monkeypatch: pytest.MonkeyPatch
):
    """Or no alarm would ring, and no log line would say which request it was."""

    async def page(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(world.backend.users, "page", page)
    with pytest.raises(RuntimeError):
        await admin.client.get("/api/users")
    transport = httpx.ASGITransport(world.app, raise_app_exceptions=False)
    headers = {"Cookie": admin.cookie}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/api/users", headers=headers)
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "secret" not in answer.text
        counted = (await client.get("/metrics")).text
    assert 'route="/api/users",status="500"} 2' in counted.replace(", ", ",")


async def test_only_the_hosts_that_are_allowed(database):
    hosts = ("Headwater.example.com", "*.internal.example", "[::1]")
    async with running(cheap(database, allowed_hosts=hosts)) as world:
        for host, status in (
            ("headwater.example.com", 200),
            ("HEADWATER.example.com:8443", 200),
            ("a.b.internal.example", 200),
            ("[::1]:8000", 200),
            ("internal.example", 400),
            ("evilinternal.example", 400),
            ("evil.example", 400),
            ("headwater.example.com.evil.example", 400),
            ("headwater.example.com@evil.example", 400),
            ("", 400),
        ):
            answer = await world.anyone.get("/openapi.json", headers={"Host": host})
            assert answer.status_code == status, host
            # A load balancer asks by the machine's address.
            answer = await world.anyone.get("/healthz", headers={"Host": host})
            assert answer.status_code == 200, host


async def test_a_list_does_not_say_what_exists_elsewhere(world: World):
    """The place of a row that one may not see is no place in the list."""
    admin, ann = await world.admin(), await world.user("ann")
    team = await world.team(admin)
    secret = await world.satellite(admin, team)
    keys = await admin.client.post("/api/users/me/api-keys", json={"name": "k"})
    for path, hidden in (
        ("satellites", secret.id),
        ("users/me/teams", team),
        ("users/me/api-keys", keys.json()["id"]),
    ):
        seen = (await admin.client.get(f"/api/{path}", params={"after": hidden})).status_code
        assert seen == 200
        answers = [
            await ann.client.get(f"/api/{path}", params={"after": after})
            for after in (hidden, "0" * len(hidden))
        ]
        details = [errors_of(answer)["after"]["detail"] for answer in answers]
        assert details[0] == details[1]


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "/api/logs?source=a%00b", None, "source"),
        ("GET", "/api/logs/stream?source=a%00b", None, "source"),
        ("GET", "/api/users?after=a%00b", None, "after"),
        ("GET", "/api/satellites?after=a%00b", None, "after"),
        ("PATCH", "/api/users/a%00b", {"disabled": True}, "user_id"),
        ("DELETE", "/api/users/me/api-keys/a%00b", None, "key_id"),
        ("POST", "/api/teams", {"name": "a\0b"}, "name"),
        ("POST", "/api/satellites", {"name": "s", "team_id": "a\0b"}, "team_id"),
        ("POST", "/api/notifications", {"user_id": "a\0b", "title": "t"}, "user_id"),
        ("POST", "/api/notifications", {"user_id": "x", "title": "a\0b"}, "title"),
        ("POST", "/api/notifications", {"user_id": "x", "title": "t", "body": "\0"}, "body"),
        ("POST", "/api/auth/login", {"email": "a\0@b", "password": "x"}, "email"),
    ],
)
async def test_a_nul_is_a_fault_of_its_field(world: World, method, path, body, field):
    admin = await world.admin()
    answer = await admin.client.request(method, path, json=body)
    assert field in errors_of(answer)


@pytest.mark.parametrize(
    "path", ["/api/teams/a%00b/notifications", "/api/satellites/a%00b/metrics"]
)
async def test_nothing_has_an_id_with_a_nul(world: World, path):
    admin = await world.admin()
    assert (await admin.client.get(path)).status_code == 404
    key = world.client(key="hw_a\x00b".replace("\x00", ""))
    assert (await key.get("/api/users/me")).status_code == 401


@pytest.mark.parametrize(
    ("at", "accepted"),
    [
        ("0001-01-01T00:00:00+01:00", False),
        ("9999-12-31T23:59:59-01:00", False),
        ("0001-01-01T00:00:00Z", True),
        ("9999-12-31T23:59:59Z", True),
        ("9999-12-31T23:59:59+01:00", True),
    ],
)
async def test_a_moment_that_utc_does_not_have(world: World, at, accepted):
    admin = await world.admin()
    agent = await world.satellite(admin)
    report = dict.fromkeys(("cpu_percent", "memory_mb", "requests_per_s", "errors_per_s"), 1)
    answer = await agent.client.post(
        f"/api/satellites/{agent.id}/metrics", json={"reports": [{**report, "at": at}]}
    )
    if accepted:
        assert answer.status_code == 201
    else:
        assert "years 1 to 9999" in errors_of(answer)["reports.0.at"]["detail"]
