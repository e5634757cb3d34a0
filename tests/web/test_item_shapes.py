"""Items of every shape that pydantic knows: models, dataclasses, TypedDicts and unions of them."""

from __future__ import annotations

import dataclasses
import json
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal, Optional

import pytest
import sqlalchemy as sa
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import TypedDict

from headwater.sql import Table, sqlite_engine, track
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving

CLOSED = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Base(DeclarativeBase):
    pass


@track(keyed=True)
class Parcel(Base):
    __tablename__ = "parcels"

    parcel_id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    note: Mapped[str]


class Box(BaseModel):
    model_config = CLOSED
    kind: Literal["box"]
    parcel_id: int


class Letter(BaseModel):
    model_config = CLOSED
    kind: Literal["letter"]
    parcel_id: int


class Tree(BaseModel):
    model_config = CLOSED
    parcel_id: int
    inside: list[Tree] = []


class Either(RootModel[Box | Letter]):
    pass


class Paths(BaseModel):
    number: int = Field(
        validation_alias=AliasChoices("no", AliasPath("parcel_id")), serialization_alias="parcelId"
    )


@dataclass(config=CLOSED)
class Checked:
    parcel_id: int


@dataclasses.dataclass(frozen=True, slots=True)
class Plain:
    note: str
    parcel_id: Annotated[int, Field(serialization_alias="parcelId")]


class Typed(TypedDict):
    __pydantic_config__ = CLOSED
    parcel_id: int


class Open(BaseModel):
    parcel_id: int = Field(serialization_alias="parcelId")


def by_note(row: Any) -> str:
    """Looks at a column that no branch has."""
    return "box" if isinstance(row, Open) or row["note"] else "letter"


SHAPES = {
    "annotated": Annotated[Tree, Field(description="a parcel")],
    "optional": Optional[Tree],  # noqa: UP045 - as users write it
    "union": Annotated[Box | Letter, Field(discriminator="kind")],
    "root": Either,
    "paths": Paths,
    "checked": Checked,
    "plain": Plain,
    "typed": Typed,
    "chosen": Annotated[
        Annotated[Open, Tag("box")] | Annotated[Open, Tag("letter")], Discriminator(by_note)
    ],
}


class Whole(BaseModel):
    """Its own code wants other fields beside the key."""

    parcel_id: int
    note: str

    @model_validator(mode="after")
    def noted(self) -> Whole:
        assert self.note
        return self


class Shown(BaseModel):
    parcel_id: int
    note: str

    @model_serializer
    def whole(self) -> dict[str, Any]:
        return {"parcel_id": self.parcel_id, "said": self.note}


class Joined(BaseModel):
    parcel_id: int
    note: str

    @field_serializer("parcel_id")
    def joined(self, value: int) -> int:
        return value if self.note else 0


@pytest.fixture
async def rig(tmp_path):
    """A function that gives, for each model, an item, and the key of its removal on both halves."""
    engine = sqlite_engine(f"sqlite:///{tmp_path}/app.db")
    table = Table(engine, Parcel)

    async def run(statement):
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(statement)

    async def told(models):
        live = LiveRouter()

        async def parcels() -> Source:
            return table.where()

        for name, model in models.items():
            live.feed(f"/{name}", item=model, event="parcel", keyed=True)(parcels)
        await run(sa.insert(Parcel).values(parcel_id=7, kind="box", note="x"))
        found = {}
        async with serving(Application(live)) as port, AsyncExitStack() as stack:
            streams, pages = {}, {}
            for name in models:
                opened = request(port, f"/{name}/stream")
                streams[name] = await stack.enter_async_context(opened)
                pages[name] = json.loads((await streams[name].next()).data)
            await run(sa.delete(Parcel))
            for name, page in pages.items():
                removal = await streams[name].next()
                assert removal.event == "parcel_removed", name
                key = json.loads(removal.data)
                async with request(port, f"/{name}?after={page['position']}") as answer:
                    assert json.loads(await answer.body())["removed"] == [key], name
                (found[name],) = [(item, key) for item in page["items"]]
        return found

    yield told
    await engine.dispose()


async def test_columns_are_left_out_and_removals_have_the_names_of_the_item(rig):
    """A map by key would else keep what has left, and a row with one more column stop the feed."""
    found = await rig(SHAPES)
    assert {name: item["parcelId"] for name, (item, _) in found.items()} == dict.fromkeys(SHAPES, 7)
    assert {name: key for name, (_, key) in found.items()} == dict.fromkeys(SHAPES, {"parcelId": 7})


async def test_a_removal_is_sent_though_the_models_own_code_needs_the_item(rig):
    """Only the key of an item that left is known: such a removal would end every stream."""
    found = await rig({"whole": Whole, "shown": Shown, "joined": Joined})
    assert [key for _, key in found.values()] == [{"parcel_id": 7}] * 3
