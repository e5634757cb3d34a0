"""A feed that cannot work with its table says so when the module is imported."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field

from headwater.errors import DeclarationError
from headwater.sql import Table, sqlite_engine
from headwater.web.fastapi import LiveRouter, Source
from support.tables import Client, Log


class Line(BaseModel):
    id: int
    message: str
    note: str = ""


class Missing(BaseModel):
    id: int
    colour: str


class Renamed(BaseModel):
    number: int = Field(validation_alias="id")


LOGS = Table(sqlite_engine("sqlite://"), Log)
CLIENTS = Table(sqlite_engine("sqlite://"), Client)


def test_a_keyed_source_on_a_feed_that_is_not():
    async def clients() -> Source:
        return CLIENTS.where()

    with pytest.raises(DeclarationError, match=r"'/c': its source is keyed; declare it with"):
        LiveRouter().feed("/c", item=dict)(clients)
    LiveRouter().feed("/c", item=dict, keyed=True)(clients)


def test_a_field_of_the_model_that_the_table_has_not():
    table = Table(sqlite_engine("sqlite://"), Log)

    async def logs(message: str | None = None) -> Source:
        return table.where(message=message)

    for fitting in (Line, Renamed):
        LiveRouter().feed("/l", item=fitting)(logs)
    with pytest.raises(DeclarationError, match="colour"):
        LiveRouter().feed("/l", item=Missing)(logs)


def test_a_function_that_chooses_between_tables_is_checked_when_it_runs():
    async def either(which: int) -> Source:
        return LOGS.where() if which else CLIENTS.where()

    LiveRouter().feed("/e", item=dict)(either)


@pytest.mark.parametrize("value", [None, "x"])
def test_a_column_that_is_not_there_is_refused_also_while_no_value_is_given(value):
    """Else the first request with a value shows it."""
    for source in (LOGS, LOGS.where(), CLIENTS, CLIENTS.where()):
        with pytest.raises(DeclarationError, match="cannot be filtered by 'colour'"):
            source.optional(colour=value)


def test_a_table_without_an_engine():
    with pytest.raises(DeclarationError, match="'sqlite:///app.db' is no engine of SQLAlchemy"):
        Table("sqlite:///app.db", Log)
