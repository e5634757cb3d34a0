"""Six feeds over joins and aggregates: a query and a function each, at most ten lines."""

from __future__ import annotations

import os
from datetime import datetime

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import ForeignKey, case, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.sql import LiveQuery, sqlite_engine, track
from headwater.web.fastapi import LiveRouter, Source


class Base(DeclarativeBase):
    pass


@track(keyed=True)
class Team(Base):
    __tablename__ = "teams"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@track(keyed=True)
class Member(Base):
    __tablename__ = "members"

    team_id: Mapped[int] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(primary_key=True, index=True)


@track(keyed=True)
class Satellite(Base):
    __tablename__ = "satellites"

    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("teams.id"), index=True)
    name: Mapped[str]


@track(keyed=True)
class Activity(Base):
    __tablename__ = "activity"

    id: Mapped[int] = mapped_column(primary_key=True)
    satellite_id: Mapped[int] = mapped_column(ForeignKey("satellites.id"), index=True)
    client: Mapped[str]
    requests: Mapped[int]
    errors: Mapped[int] = mapped_column(default=0)


@track(keyed=True)
class Server(Base):
    __tablename__ = "servers"

    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("teams.id"), index=True)
    name: Mapped[str]
    enabled: Mapped[bool]


@track(keyed=True)
class Installation(Base):
    __tablename__ = "installations"

    id: Mapped[int] = mapped_column(primary_key=True)
    server_id: Mapped[int] = mapped_column(ForeignKey("servers.id"), index=True)
    version: Mapped[str]
    failed: Mapped[bool]


@track(keyed=True)
class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@track(keyed=True)
class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    placed_at: Mapped[datetime] = mapped_column(index=True)


class ClientItem(BaseModel):
    id: int
    client: str
    satellite: str
    requests: int


class InstallationItem(BaseModel):
    id: int
    server: str
    version: str


class StatusItem(BaseModel):
    id: int
    name: str
    status: str


class MetricsItem(BaseModel):
    satellite_id: int
    requests: int
    errors: int


class TeamItem(BaseModel):
    id: int
    name: str
    members: int


class OrderItem(BaseModel):
    id: int
    customer: str
    placed_at: datetime


engine = sqlite_engine(os.environ.get("DATABASE", "sqlite:///feeds.db"))
live = LiveRouter()

# Client activity with the names of satellites
CLIENTS = LiveQuery(
    engine,
    select(Activity, Satellite.team_id, Satellite.name.label("satellite")).join(Satellite),
    key=["id"], where=["team_id"],
)  # fmt: skip


@live.feed("/clients", item=ClientItem, collection="clients", event="client", keyed=True)
async def clients(team_id: int) -> Source:
    return CLIENTS.where(team_id=team_id)


# Installations joined with their servers
INSTALLATIONS = LiveQuery(
    engine,
    select(Installation, Server.team_id, Server.name.label("server")).join(Server),
    key=["id"], where=["team_id"],
)  # fmt: skip


@live.feed("/installations", item=InstallationItem, event="installation", keyed=True)
async def installations(team_id: int) -> Source:
    return INSTALLATIONS.where(team_id=team_id)


# The status of a server, computed of two tables
FAILED = select(func.count()).where(Installation.server_id == Server.id, Installation.failed)
STATUS = case((~Server.enabled, "off"), (FAILED.scalar_subquery() > 0, "failing"), else_="ok")
SERVERS = LiveQuery(
    engine, select(Server.id, Server.team_id, Server.name, STATUS.label("status")),
    key=["id"], where=["team_id"],
)  # fmt: skip


@live.feed("/servers", item=StatusItem, event="server", keyed=True, limit="all")
async def servers(team_id: int) -> Source:
    return SERVERS.where(team_id=team_id)


# The metrics of a team, by aggregate
SUMS = [func.sum(Activity.requests).label("requests"), func.sum(Activity.errors).label("errors")]
METRICS = LiveQuery(
    engine, select(Satellite.id.label("satellite_id"), Satellite.team_id, *SUMS)
    .join(Activity, Activity.satellite_id == Satellite.id).group_by(Satellite.id),
    key=["satellite_id"], where=["team_id"],
)  # fmt: skip


@live.feed("/metrics", item=MetricsItem, event="metrics", keyed=True, limit="all")
async def metrics(team_id: int) -> Source:
    return METRICS.where(team_id=team_id)


# My teams with the numbers of their members
MINE, COUNT = Member.__table__.alias(), select(func.count()).where(Member.team_id == Team.id)
TEAMS = LiveQuery(
    engine, select(Team.id, Team.name, MINE.c.user_id, COUNT.scalar_subquery().label("members"))
    .join(MINE, MINE.c.team_id == Team.id),
    key=["id", "user_id"], where=["user_id"],
)  # fmt: skip


@live.feed("/teams", item=TeamItem, event="team", keyed=True, limit="all")
async def teams(user_id: int) -> Source:
    return TEAMS.where(user_id=user_id)


# The latest 50 orders with their customer
ORDERS = LiveQuery(
    engine, select(Order.id, Order.placed_at, Customer.name.label("customer")).join(Customer)
    .order_by(Order.placed_at.desc()).limit(50),
    key=["id"],
)  # fmt: skip


@live.feed("/orders", item=OrderItem, event="order", keyed=True, limit=50)
async def orders() -> Source:
    return ORDERS.where()


# The application
app = FastAPI()
app.include_router(live, prefix="/api")
