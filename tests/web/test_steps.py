"""Dependencies come to the same, whether they are taken as steps or FastAPI solves them."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.security import APIKeyCookie

from headwater.eventlog import MemoryLog
from headwater.web import steps
from headwater.web.fastapi import LiveRouter, Problem, Source, guard
from support.http import request
from support.server import serving

calls: list[str] = []
cookie = APIKeyCookie(name="session", auto_error=False)


async def caller(request: Request, session: Annotated[str | None, Depends(cookie)]) -> str:
    calls.append("caller")
    return f"{session}@{request.url.path}"


async def of_team(team: int, who: Annotated[str, Depends(caller)], response: Response) -> str:
    calls.append("of_team")
    if team == 404:
        raise Problem(404, "There is no such team.")
    response.headers["x-team"] = f"{team} {who}"
    return f"team {team}"


async def uncached() -> int:
    calls.append("uncached")
    return len(calls)


def in_a_thread() -> str:
    return "thread"


async def with_an_end():
    calls.append("begin")
    yield "resource"
    calls.append("end")


async def asks(wish: Annotated[str, Header()]) -> str:
    return wish


def application(*more, **given) -> FastAPI:
    live = LiveRouter()
    log = MemoryLog()
    calls.clear()

    @live.feed(
        "/teams/{team}/notes",
        item=dict,
        requires=[guard(of_team)],
        dependencies=[Depends(each) for each in more],
    )
    async def notes(
        team: Annotated[str, Depends(of_team)],
        who: Annotated[str, Depends(caller)],
        one: Annotated[int, Depends(uncached, use_cache=False)],
        two: Annotated[int, Depends(uncached, use_cache=False)],
        level: Annotated[int | None, Query(ge=1)] = None,
        tags: Annotated[list[str] | None, Query(alias="tag")] = None,
        name: str = "x",
    ) -> Source:
        calls.append(f"{team} {who} {two - one} {level} {tags} {name}")
        return log.topic("notes")

    app = FastAPI(**given)
    live.install(app)
    return app


QUERIES = (
    *("", "?level=3&name=y", "?tag=a&tag=b", "?name=", "?level=0"),
    *("?level=x&limit=0", "?limit=0"),
)


async def asked(port: int, path: str, **headers: str):
    calls.clear()
    async with request(port, path, headers={"Cookie": "session=s", **headers}) as answer:
        body = json.loads(await answer.body())
        for volatile in ("start", "position"):
            body.pop(volatile, None)
        return answer.status, answer.headers.get("x-team"), body, calls[-1:]


async def answers(app: FastAPI) -> list[object]:
    async with serving(app) as port:
        return [
            await asked(port, f"/teams/{team}/notes{query}")
            for team in ("1", "404", "x")
            for query in QUERIES
        ]


@pytest.mark.parametrize(
    "more", [(), (uncached,), (in_a_thread,), (with_an_end,)], ids=["plain", "one", "sync", "yield"]
)
async def test_answers_are_those_of_the_framework(monkeypatch, more):
    """Values, errors, headers and their order of precedence."""
    quick = await answers(application(*more))
    monkeypatch.setattr(steps.Steps, "of", classmethod(lambda *_: None))
    assert quick == await answers(application(*more))
    assert {status for status, *_ in quick} == {200, 404, 422}


async def test_each_dependency_is_called_once():
    """What a guard looked up is not looked up again for the handler."""
    async with serving(application()) as port:
        await asked(port, "/teams/1/notes")
    assert [call for call in calls if " " not in call] == [
        *("caller", "of_team", "uncached", "uncached")
    ]


async def test_overrides_of_tests_are_taken():
    app = application()

    async def other() -> str:
        return "somebody"

    async with serving(app) as port:
        app.dependency_overrides[caller] = other
        assert (await asked(port, "/teams/1/notes"))[1] == "1 somebody"
        app.dependency_overrides.clear()
        assert (await asked(port, "/teams/1/notes"))[1] == "1 s@/teams/1/notes"


async def test_what_is_not_plain_is_left_to_the_framework():
    live = LiveRouter()
    log = MemoryLog()

    @live.feed("/notes", item=dict, requires=[guard(asks)])
    async def notes(wish: Annotated[str, Depends(asks)]) -> Source:
        calls.append(wish)
        return log.topic("notes")

    app = FastAPI()
    live.install(app)
    async with serving(app) as port:
        assert (await asked(port, "/notes", wish="much"))[3] == ["much"]
