"""Signing in and out, over HTTP."""

from __future__ import annotations

import asyncio
import json
from http.cookies import SimpleCookie

import pytest
from sqlalchemy import text

from headwater.backend.models import Session
from headwater.backend.times import utc_now
from support.backend import PASSWORD, World, cheap, errors_of, running
from support.until import until

WRONG = "E-mail address and password do not match."


async def sign_in(client, email, password=PASSWORD, **options):
    return await client.post(
        "/api/auth/login", json={"email": email, "password": password}, **options
    )


async def test_the_cookie_cannot_be_read_by_scripts_nor_sent_by_other_sites(world: World, ann):
    answer = await sign_in(world.anyone, ann.email)
    assert answer.json()["email"] == ann.email
    cookie = SimpleCookie(answer.headers["set-cookie"])["session"]
    assert cookie["httponly"] is True
    assert cookie["samesite"] == "lax"
    assert cookie["path"] == "/"
    assert cookie["secure"] == ""
    assert int(cookie["max-age"]) == 14 * 24 * 3600


async def test_the_cookie_is_secure_on_https(world: World, ann):
    answer = await sign_in(world.anyone, ann.email, extensions={"x": 1})
    assert "secure" not in answer.headers["set-cookie"].lower()
    world.anyone.base_url = "https://test"
    answer = await sign_in(world.anyone, ann.email)
    assert "secure" in answer.headers["set-cookie"].lower()


async def test_the_cookie_is_secure_where_the_setting_says_so(database):
    async with running(cheap(database, secure_cookies=True)) as world:
        await world.backend.users.create("ann@example.com", PASSWORD, "global_user")
        answer = await sign_in(world.anyone, "ann@example.com")
        assert "secure" in answer.headers["set-cookie"].lower()


async def test_people_write_their_address_as_they_like(world: World, ann):
    assert (await sign_in(world.anyone, "  ANN@Example.com ")).status_code == 200


async def test_whichever_is_wrong_the_answer_is_the_same(world: World, ann):
    """Nobody can find out who has an account here."""
    unknown = await sign_in(world.anyone, "nobody@example.com")
    wrong = await sign_in(world.anyone, ann.email, "not it")
    await world.backend.users.change(ann.id, None, True)
    disabled = await sign_in(world.anyone, ann.email)
    for answer in (unknown, wrong, disabled):
        assert answer.status_code == 401
        assert answer.json()["detail"] == WRONG
        assert "set-cookie" not in answer.headers
    assert unknown.content == wrong.content == disabled.content
    assert dict(unknown.headers) == dict(wrong.headers) == dict(disabled.headers)


async def test_an_unknown_address_costs_as_much_work(world: World, ann, monkeypatch):
    checked: list[str | None] = []
    verify = world.backend.passwords.verify

    async def spy(stored, password, **options):
        checked.append(stored)
        return await verify(stored, password, **options)

    monkeypatch.setattr(world.backend.passwords, "verify", spy)
    await sign_in(world.anyone, "nobody@example.com")
    await sign_in(world.anyone, ann.email, "not it")
    assert len(checked) == 2
    assert checked[0] is None


@pytest.mark.parametrize("how", ["disabled", "removed"])
async def test_who_is_disabled_while_signing_in_gets_no_session(
    world: World, ann, monkeypatch, how: str
):
    """The session would not end with the others, and work again with the account."""
    verify = world.backend.passwords.verify

    async def verify_meanwhile(stored, password, **options):
        right = await verify(stored, password, **options)
        if how == "disabled":
            await world.backend.users.change(ann.id, None, True)
        else:
            await world.backend.users.remove(ann.id)
        return right

    monkeypatch.setattr(world.backend.passwords, "verify", verify_meanwhile)
    answer = await sign_in(world.anyone, ann.email)
    assert answer.status_code == 401
    assert answer.json()["detail"] == WRONG
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("standing", ["postgresql"], indirect=True)  # it has many writers
@pytest.mark.long
async def test_a_sign_in_waits_for_the_transaction_that_disables_its_user(world: World, ann):
    database = world.backend.database
    async with database.engine.connect() as other:
        await other.execute(text("UPDATE users SET disabled = true"))
        await other.execute(text("DELETE FROM sessions"))
        signing_in = asyncio.create_task(sign_in(world.anyone, ann.email))
        waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")

        async def waits_or_done() -> bool:
            async with database.read() as session:
                return signing_in.done() or bool(await session.scalar(waits))

        await until(waits_or_done)
        await other.commit()
    assert (await signing_in).status_code == 401


async def test_many_wrong_passwords_are_slowed_down(world: World, ann):
    for _ in range(10):
        assert (await sign_in(world.anyone, ann.email, "not it")).status_code == 401
    answer = await sign_in(world.anyone, ann.email, "not it")
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    # The right one is not looked at either, or guessing would go on.
    assert (await sign_in(world.anyone, " ANN@example.com")).status_code == 429
    assert world.backend.sign_ins.throttled == 2


async def test_many_addresses_from_one_place_are_slowed_down(database):
    async with running(cheap(database, login_tries_per_address=5)) as world:
        for number in range(5):
            answer = await sign_in(world.anyone, f"n{number}@example.com")
            assert answer.status_code == 401
        assert (await sign_in(world.anyone, "another@example.com")).status_code == 429


async def test_right_passwords_are_never_slowed_down(world: World, ann):
    for _ in range(25):
        assert (await sign_in(world.anyone, ann.email)).status_code == 200


async def test_a_session_ends_when_signed_out(world: World, ann):
    stolen = {"Cookie": ann.cookie}
    answer = await ann.client.post("/api/auth/logout")
    assert answer.status_code == 204
    assert answer.content == b""
    assert 'session=""' in answer.headers["set-cookie"]
    assert (await world.anyone.get("/api/users/me", headers=stolen)).status_code == 401
    assert (await ann.client.post("/api/auth/logout")).status_code == 401


async def test_other_sessions_of_a_user_stay(world: World, ann):
    other = world.client()
    assert (await sign_in(other, ann.email)).status_code == 200
    await ann.client.post("/api/auth/logout")
    assert (await other.get("/api/users/me")).status_code == 200


async def test_a_session_expires(world: World, ann):
    from sqlalchemy import update

    async with world.backend.database.write() as session:
        await session.execute(update(Session).values(expires_at=utc_now()))
    assert (await ann.client.get("/api/users/me")).status_code == 401


async def test_tokens_and_passwords_are_stored_hashed(world: World, ann, settings):
    from pathlib import Path

    token = ann.client.cookies["session"]
    key = (await ann.client.post("/api/users/me/api-keys", json={"name": "k"})).json()["api_key"]
    path = world.backend.database.address.path
    stored = b"".join(
        Path(f"{path}{suffix}").read_bytes()
        for suffix in ("", "-wal")
        if Path(f"{path}{suffix}").exists()
    )
    for secret in (token, key, PASSWORD):
        assert secret.encode() not in stored


async def test_a_password_never_comes_back_in_a_problem(world: World):
    answer = await world.anyone.post("/api/auth/login", json={"email": 7, "password": ["s3cret"]})
    assert set(errors_of(answer)) == {"email", "password"}
    assert "s3cret" not in answer.text
    answer = await world.anyone.post("/api/auth/login", json={"password": "s3cret"})
    assert set(errors_of(answer)) == {"email"}
    assert "s3cret" not in answer.text


async def test_a_key_works_where_a_session_does(world: World, ann):
    answer = await ann.client.post("/api/users/me/api-keys", json={"name": "ci"})
    assert answer.status_code == 201
    program = world.client(key=answer.json()["api_key"])
    assert (await program.get("/api/users/me")).json()["id"] == ann.id
    assert (await program.post("/api/auth/logout")).status_code == 409


@pytest.mark.parametrize(
    "header", ["Bearer hw_wrong", "Bearer hws_wrong", "Bearer wrong", "Basic YTpi", "Bearer"]
)
async def test_a_wrong_key_is_nobody(world: World, header: str):
    answer = await world.anyone.get("/api/users/me", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_decides_before_a_cookie(world: World, ann):
    """The key is shown on purpose, the cookie comes along by itself."""
    answer = await ann.client.get("/api/users/me", headers={"Authorization": "Bearer hw_wrong"})
    assert answer.status_code == 401


class TestOrigin:
    """Another site's page must not act with a visitor's cookie."""

    BODY = {"entries": [{"message": "m"}]}

    async def post(self, person, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await person.client.post("/api/logs", json=self.BODY, headers=named)).status_code

    async def test_this_site(self, ann):
        assert await self.post(ann, origin="http://test") == 201
        assert await self.post(ann, origin="http://TEST:80") == 201
        assert await self.post(ann, referer="http://test/page?x=1") == 201

    async def test_behind_a_proxy_that_ends_tls(self, ann):
        assert await self.post(ann, origin="https://test") == 201

    @pytest.mark.parametrize(
        "origin",
        [
            "http://evil.example",
            "http://test.evil.example",
            "http://test:81",
            "null",
            "x",
            "",
            "http://[::1",
            "http://[::1]",
            "http://evil.example\\@test",
            "http://evil.example\\test",
            "http://evil@test",
            "http://test\\@evil.example",
            "http:test",
            "//test",
            "ftp://test",
            "http://test:99999",
            "http://test:x",
            "http://test ",
        ],
    )
    async def test_another_site(self, ann, origin: str):
        assert await self.post(ann, origin=origin) == 403
        assert await self.post(ann, referer=origin) == 403

    async def test_an_origin_is_no_address(self, ann):
        """A page's path comes in the referer alone."""
        assert await self.post(ann, origin="http://test/page") == 403

    async def test_two_origins_are_none(self, ann):
        headers = [("origin", "http://test"), ("origin", "http://evil.example")]
        answer = await ann.client.post("/api/logs", json=self.BODY, headers=headers)
        assert answer.status_code == 403

    async def test_curl_says_nothing(self, ann):
        assert await self.post(ann) == 201

    @pytest.mark.parametrize(
        ("site", "status"),
        [("same-origin", 201), ("none", 201), ("cross-site", 403), ("same-site", 403)],
    )
    async def test_a_browser_says_so_otherwise(self, ann, site: str, status: int):
        assert await self.post(ann, sec_fetch_site=site) == status

    async def test_reading_is_free(self, ann):
        answer = await ann.client.get("/api/logs", headers={"origin": "http://evil.example"})
        assert answer.status_code == 200

    async def test_keys_are_not_concerned(self, world: World, ann):
        answer = await ann.client.post("/api/users/me/api-keys", json={"name": "ci"})
        program = world.client(key=answer.json()["api_key"], origin="http://evil.example")
        assert (await program.post("/api/logs", json=self.BODY)).status_code == 201

    async def test_another_site_cannot_sign_a_visitor_in(self, world: World, ann):
        answer = await sign_in(world.anyone, ann.email, headers={"origin": "http://evil.example"})
        assert answer.status_code == 403

    async def test_an_allowed_origin(self, database):
        allowed = "https://app.example.com"
        async with running(cheap(database, allowed_origins=(allowed,))) as world:
            ann = await world.user("ann")
            assert await self.post(ann, origin=allowed) == 201
            assert await self.post(ann, origin="https://other.example.com") == 403
            ask = {"origin": allowed, "access-control-request-method": "POST"}
            answer = await world.anyone.options("/api/logs", headers=ask)
            assert answer.headers["access-control-allow-origin"] == allowed
            assert answer.headers["access-control-allow-credentials"] == "true"

    async def test_cors_is_closed_unless_opened(self, world: World, ann):
        answer = await ann.client.get("/api/logs", headers={"origin": "https://app.example.com"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


LOGIN = {"email": "ann@example.com", "password": "s3cret-w0rd"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (json.dumps({"email": "ann@example.com", "passwort": "s3cret-w0rd"}), "application/json"),
        (json.dumps({**LOGIN, "pass": "s3cret-w0rd", "x": ["s3cret-w0rd"]}), "application/json"),
        (json.dumps({"email": LOGIN, "password": "x"}), "application/json"),
        (json.dumps([LOGIN]), "application/json"),
        (json.dumps("s3cret-w0rd"), "application/json"),
        (json.dumps(LOGIN)[:-1], "application/json"),
        (json.dumps(LOGIN), "text/plain"),
        (json.dumps(LOGIN), None),
        ("email=ann@example.com&password=s3cret-w0rd", "application/x-www-form-urlencoded"),
        (b"\xff" + json.dumps(LOGIN).encode(), "application/json"),
        (json.dumps({**LOGIN, "s3cret": 1, "password": {"s3cret-w0rd": 1}}), "application/json"),
    ],
)
async def test_no_password_comes_back_however_wrong_the_body_is(
    world: World, caplog: pytest.LogCaptureFixture, content, kind
):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await world.anyone.post("/api/auth/login", content=content, headers=headers)
    assert answer.status_code in (400, 422), answer.text
    assert "w0rd" not in answer.text
    assert "w0rd" not in caplog.text


async def test_of_many_errors_twenty_are_listed(world: World):
    """An answer is never much larger than what was sent."""
    body = json.dumps({f"{number:03}" * 10: 1 for number in range(400)})
    assert len(body) < 16 * 1024
    headers = {"Content-Type": "application/json"}
    answer = await world.anyone.post("/api/auth/login", content=body, headers=headers)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20
    assert "(and 401 more)" in answer.json()["detail"]
    assert len(answer.content) < 8 * 1024
    answer = await world.anyone.post("/api/auth/login", json={"x" * 10_000: 1})
    assert len(answer.content) < 2 * 1024
