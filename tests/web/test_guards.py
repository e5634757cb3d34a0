"""Guards and requirements: where they are declared, and which of them a request meets."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.web.fastapi import GuardedRoute, LiveRouter, Source, guard
from support.http import request
from support.server import serving


class Item(BaseModel):
    n: int


def only(who: str):
    async def check(request: Request) -> None:
        if request.headers.get("x-user") != who:
            raise HTTPException(403, f"only {who}")

    return guard(check)


async def test_a_router_that_is_included_twice_asks_the_guards_of_the_place():
    shared = APIRouter(route_class=GuardedRoute)

    @shared.post("/{team}/notes")
    async def create(team: str, item: Item) -> str:
        return team

    inner, app = FastAPI(), FastAPI()
    for who in ("ann", "bob"):
        inner.include_router(shared, prefix=f"/{who}", dependencies=[only(who)])
    inner.include_router(shared, prefix="/all")
    app.mount("/inner", inner)
    async with serving(app) as port:
        for place, who, status in (
            ("ann", "ann", 422),
            ("ann", "bob", 403),
            ("bob", "bob", 422),
            ("bob", "ann", 403),
            ("all", "eve", 422),
        ):
            sent = {"X-User": who, "Content-Type": "application/json"}
            path = f"/inner/{place}/red/notes"
            async with request(port, path, method="POST", headers=sent, body=b"{") as answer:
                assert (place, who, answer.status) == (place, who, status)


@pytest.mark.parametrize("requires", ["", [], ["notes.view", ""], 5])
def test_requires_names_a_permission(requires):
    live = LiveRouter(requires=lambda permission: only(permission))
    with pytest.raises(DeclarationError, match="leave requires= out for a feed that everybody"):
        live.feed("/notes", item=Item, requires=requires)


@pytest.mark.parametrize("made", [None, lambda: None, [Depends(lambda: None)]])
def test_what_makes_guards_must_make_one(made):
    live = LiveRouter(requires=lambda permission: made)
    with pytest.raises(DeclarationError, match="of 'notes.view': return guard"):
        live.feed("/notes", item=Item, requires="notes.view")


@pytest.mark.parametrize("given", [only("ann"), [lambda: None], "ann"])
def test_dependencies_are_a_list_of_depends(given):
    live, log = LiveRouter(), MemoryLog()

    def notes() -> Source:
        return log.topic("notes")

    with pytest.raises(DeclarationError, match=r"a list of Depends\(...\) or guard"):
        live.feed("/notes", item=Item, dependencies=given)(notes)
