"""Items as the reader's own type."""

import dataclasses
import subprocess
import sys
from typing import TypedDict

import pydantic
import pytest

from headwater.client import Item, Snapshot
from headwater.errors import PeerError, UsageError
from headwater.protocol import Event, encode


class Model(pydantic.BaseModel):
    id: int
    note: str = ""


@dataclasses.dataclass
class Plain:
    id: str
    note: str = ""
    made: str = dataclasses.field(init=False, default="here")


class Typed(TypedDict):
    id: str


PAGE = {"logs": [{"id": "1", "more": True}], "start": "p0", "position": "p1", "has_more": False}


def block(event, data, id=None):
    return encode(Event(data, event=event, id=id))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Model, [Model(id=1), Model(id=2, note="x")]),
        (Plain, [Plain("1"), Plain("2", "x")]),
        (Typed, [{"id": "1", "more": True}, {"id": "2", "note": "x"}]),
        (dict, [{"id": "1", "more": True}, {"id": "2", "note": "x"}]),
        (lambda data: data["id"], ["1", "2"]),
    ],
    ids=["model", "dataclass", "TypedDict", "dict", "function"],
)
async def test_items_of_a_snapshot_and_live_ones_are_of_the_type_asked_for(
    client, server, item, expected
):
    server.script(
        server.stream(
            block("snapshot", PAGE, "p1"),
            block("log", {"id": "2", "note": "x"}, "p2"),
            block("log_removed", {"id": "1"}, "p3"),
        )
    )
    (snapshot, live, removed), error, _ = await client.values(server.url, item=item)
    assert error is None
    assert isinstance(snapshot, Snapshot)
    assert isinstance(live, Item)
    assert [*snapshot.items, live.data] == expected
    assert removed.key == {"id": "1"}


@pytest.mark.parametrize("item", [Model, Plain])
async def test_an_item_that_does_not_fit_is_named_and_comes_again_later(client, server, item):
    server.script(server.stream(block("log", {"id": "1"}, "p1"), block("log", {"note": "x"}, "p2")))
    values, error, position = await client.values(server.url, item=item)
    assert len(values) == 1
    assert isinstance(error, PeerError)
    assert f"an item of the feed does not fit {item.__name__}" in str(error)
    assert "id" in str(error)
    assert position == "p1"


@pytest.mark.parametrize("item", [int, "Model", 7, Model(id=1)])
def test_what_is_no_type_of_an_item_is_refused(client, item):
    with pytest.raises(UsageError, match="item="):
        client.opened("follow", "http://h/logs", item=item)


def test_pydantic_is_not_needed_for_anything():
    code = (
        "import sys; sys.modules['pydantic'] = None\n"
        "import dataclasses, headwater.client, headwater.client.sync as sync\n"
        "@dataclasses.dataclass\n"
        "class Plain: id: str\n"
        "sync.follow('http://h/logs', item=Plain).close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
