"""Queries as applications write them: exact on each database, or refused with what to write."""

from __future__ import annotations

import enum
import random
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, case, exists, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from headwater.delivery._hub import Hub
from headwater.errors import DeclarationError
from headwater.feeds._feed import Feed
from headwater.sql import LiveQuery, sqlite_engine, track
from sql.query.shop import write
from support.streams import StreamClient
from support.until import until


class Base(DeclarativeBase):
    pass


class Status(enum.Enum):
    OPEN = "open"
    PAID = "paid"
    LATE = "late"


@track(keyed=True)
class Org(Base):
    __tablename__ = "orgs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]


@track(keyed=True)
class User(Base):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), index=True)
    manager_id: Mapped[UUID | None] = mapped_column(index=True)
    email: Mapped[str]
    active: Mapped[bool]


@track(keyed=True)
class Invoice(Base):
    __tablename__ = "invoices"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[UUID | None] = mapped_column(index=True)
    status: Mapped[Status]
    amount: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2))
    at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))


@track(keyed=True)
class Tag(Base):
    __tablename__ = "tags"

    invoice_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(primary_key=True)


Manager, Last = aliased(User), aliased(Invoice)
PAID = func.sum(case((Invoice.status == Status.PAID, Invoice.amount), else_=0)).label("paid")

TAGGED = sa.join(Invoice, Tag, Tag.invoice_id == Invoice.id)

# By name: the query, its key, and a filter of each client.
EXACT = {
    "self join": (
        select(User.id, User.email, Manager.email.label("boss"), User.org_id).outerjoin(
            Manager, Manager.id == User.manager_id
        ),
        ["id"],
        "org_id",
    ),
    "aggregates with HAVING": (
        select(User.id, User.org_id, func.count(Invoice.id).label("n"), PAID)
        .join(Invoice, Invoice.user_id == User.id)
        .group_by(User.id, User.org_id)
        .having(func.count(Invoice.id) > 1),
        ["id"],
        "org_id",
    ),
    "a CASE label": (
        select(
            Invoice.id,
            case((Invoice.amount > 100, "big"), else_="small").label("size"),
            Invoice.status,
            Invoice.amount,
            Invoice.at,
        ),
        ["id"],
        "status",
    ),
    "counts by an enum": (
        select(Invoice.status, func.count().label("n")).group_by(Invoice.status),
        ["status"],
        None,
    ),
    "groups by a moment": (
        select(Invoice.at, func.sum(Invoice.amount).label("sum")).group_by(Invoice.at),
        ["at"],
        None,
    ),
    "EXISTS": (
        select(User.id, User.email).where(
            exists().where(Invoice.user_id == User.id, Invoice.status == Status.OPEN)
        ),
        ["id"],
        None,
    ),
    "NOT EXISTS": (
        select(Org.id, Org.name).where(
            ~select(User.id).where(User.org_id == Org.id, User.active).exists()
        ),
        ["id"],
        None,
    ),
    "DISTINCT over three tables": (
        select(User.org_id, Tag.name)
        .join(Invoice, Invoice.user_id == User.id)
        .join(Tag, Tag.invoice_id == Invoice.id)
        .distinct(),
        ["org_id", "name"],
        "org_id",
    ),
    "the latest of each": (
        select(
            User.id,
            select(Last.amount)
            .where(Last.user_id == User.id)
            .order_by(Last.at.desc(), Last.id)
            .limit(1)
            .scalar_subquery()
            .label("last"),
        ),
        ["id"],
        None,
    ),
    "an outer join with NULL keys": (
        select(Invoice.id, User.email, Org.name)
        .outerjoin(User, User.id == Invoice.user_id)
        .outerjoin(Org, Org.id == User.org_id),
        ["id"],
        None,
    ),
    "a BOOLEAN": (select(User.id, User.active, User.email).where(User.active), ["id"], "active"),
    "two columns, grouped": (
        select(User.org_id, Invoice.status, func.count().label("n"))
        .join(Invoice, Invoice.user_id == User.id)
        .group_by(User.org_id, Invoice.status),
        ["org_id", "status"],
        "org_id",
    ),
    "an outer join of a join": (
        select(User.id, func.count(Tag.name).label("n"))
        .select_from(sa.outerjoin(User, TAGGED, Invoice.user_id == User.id))
        .group_by(User.id),
        ["id"],
        None,
    ),
    "IN of two columns": (
        select(Invoice.id, Invoice.status).where(
            sa.tuple_(Invoice.user_id, Invoice.status).in_(
                select(Last.user_id, Last.status).where(Last.amount > 100)
            )
        ),
        ["id"],
        None,
    ),
    "groups in IN": (
        select(User.id).where(
            User.id.in_(select(Invoice.user_id).group_by(Invoice.user_id).having(func.count() > 1))
        ),
        ["id"],
        None,
    ),
    "the first two of each": (
        select(Invoice.id, Invoice.at, User.email, User.org_id)
        .join(User, User.id == Invoice.user_id)
        .order_by(Invoice.at.desc(), Invoice.id)
        .limit(2),
        ["id"],
        "org_id",
    ),
}

ORGS = [UUID(int=n) for n in range(3)]
USERS = [UUID(int=100 + n) for n in range(5)]
FILTERS = {"org_id": ORGS[0], "status": Status.OPEN, "active": True}


def statement(pick: random.Random) -> sa.Executable:
    invoice = Invoice.id == pick.randrange(12)
    user = User.id == pick.choice(USERS)
    owner = pick.choice([None, *USERS])
    amount = Decimal(pick.choice(["1.50", "60", "150.25"]))
    at, status = datetime(2026, 1, pick.randint(1, 4), tzinfo=UTC), pick.choice([*Status])
    return pick.choice(
        [
            sa.update(User).where(user).values(org_id=pick.choice(ORGS)),
            sa.update(User).where(user).values(active=pick.random() < 0.5),
            sa.update(User).where(user).values(manager_id=owner, email=f"u{pick.randrange(99)}"),
            sa.insert(Invoice).values(
                id=pick.randrange(12), user_id=owner, status=status, amount=amount, at=at
            ),
            sa.update(Invoice).where(invoice).values(status=status, amount=amount),
            sa.update(Invoice).where(invoice).values(user_id=owner, at=at),
            sa.delete(Invoice).where(invoice),
            sa.insert(Tag).values(invoice_id=pick.randrange(12), name=pick.choice("abc")),
            sa.update(Tag).where(Tag.name == pick.choice("abc")).values(name=pick.choice("abc")),
            sa.delete(Tag).where(Tag.invoice_id == pick.randrange(12)),
        ]
    )


async def fill(engine):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await write(
        engine,
        sa.insert(Org).values([{"id": one, "name": f"o{one.int}"} for one in ORGS]),
        sa.insert(User).values(
            [{"id": one, "org_id": ORGS[0], "email": "u", "active": True} for one in USERS]
        ),
    )


class Client:
    """Reads one selection of a query from page to page."""

    def __init__(self, query: LiveQuery, chosen: sa.Select, key: list[str], **filters) -> None:
        self.source = query.where(**filters)
        self.chosen = chosen
        for name, value in filters.items():
            self.chosen = self.chosen.where(self.chosen.selected_columns[name] == value)
        self.key = key
        self.page, self.rows = None, {}

    async def read(self) -> None:
        if self.page is None:
            self.page = await self.source.page(500)
        else:
            place = await self.source.locate(self.page.epoch, str(self.page.end))
            self.page = await self.source.page(500, after=place)
        for change in self.page.changes:
            name = tuple(change.key[each] for each in self.key)
            if change.removed:
                self.rows.pop(name, None)
            else:
                self.rows[name] = dict(change.item)

    async def expected(self, engine):
        async with engine.connect() as connection:
            rows = (await connection.execute(self.chosen)).mappings()
            return {tuple(row[each] for each in self.key): dict(row) for row in rows}


async def test_every_one_is_exact(engine):
    clients = {}
    for name, (chosen, key, by) in EXACT.items():
        query = LiveQuery(engine, chosen, key=key, where=[by] if by else [])
        clients[name] = Client(query, chosen, key, **({by: FILTERS[by]} if by else {}))
    await fill(engine)
    pick = random.Random(7)
    for _ in range(12):
        for _ in range(pick.randint(2, 6)):
            try:
                await write(engine, statement(pick))
            except sa.exc.IntegrityError:
                pass  # it is there
        for name, client in clients.items():
            await client.read()
            assert client.rows == await client.expected(engine), name


async def test_the_key_of_a_removal_is_as_that_of_an_item(engine):
    chosen = select(Invoice.status.label("id"), func.count().label("n")).group_by(Invoice.status)
    query = LiveQuery(engine, chosen, key=["id"])
    await fill(engine)
    values = {"amount": 1, "at": datetime(2026, 1, 1, tzinfo=UTC)}
    await write(engine, sa.insert(Invoice).values(id=1, status=Status.OPEN, **values))
    hub, client = Hub(), StreamClient(Feed("n", collection="counts", event="count"))
    await client.connect(hub, query.where())
    try:
        client.read()
        assert client.items == {"open": {"id": "open", "n": 1}}
        await write(engine, sa.delete(Invoice))
        await until(lambda: client.read() or not client.items)
    finally:
        await hub.close()


LATEST = select(Invoice.user_id, func.max(Invoice.at).label("at")).group_by(Invoice.user_id)
NAMED = LATEST.cte("latest")


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (
            select(User.id, NAMED.c.at).select_from(User).join(NAMED, NAMED.c.user_id == User.id),
            "CTE 'latest'.*correlated sub-query",
        ),
        (
            select(User.id, LATEST.subquery("latest").c.at),
            "a sub-query in FROM.*correlated scalar sub-query",
        ),
        (
            select(Invoice.id, func.row_number().over(order_by=Invoice.at).label("n")),
            "window function.*correlated scalar sub-query",
        ),
        (select(User.id).with_for_update(), r"with_for_update\(\).*leave it out"),
        (select(User.id).order_by(User.email).fetch(2), r"FETCH FIRST.*limit\(2\)"),
        (select(Invoice.user_id.label("id")), "may be NULL: use one that is not.*joined"),
        (select(Invoice.amount.label("id")), "a key is of integers.*store it"),
        (
            select(User.id, sa.values(sa.column("v", sa.Integer), name="v").data([(1,)]).c.v),
            "in FROM cannot be derived: join tables",
        ),
    ],
)
def test_what_is_refused_says_what_to_write(tmp_path, chosen, said):
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
    with pytest.raises(DeclarationError, match=said):
        LiveQuery(engine, chosen, key=["id"])


@pytest.mark.filterwarnings("ignore:Passing expression to ``distinct``")
def test_distinct_on_is_refused(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
    chosen = select(Invoice.id, Invoice.user_id).distinct(Invoice.user_id)
    with pytest.raises(DeclarationError, match=r"DISTINCT ON.*order_by\(\) and limit\(1\)"):
        LiveQuery(engine, chosen, key=["id"])
