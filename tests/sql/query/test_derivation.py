"""What is derived from a SELECT, and what is refused with a sentence that says what to write."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.dialects.postgresql import HSTORE, JSONB
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column, relationship

from headwater.errors import DeclarationError
from headwater.sql import LiveQuery, sqlite_engine, track_table
from headwater.sql.query._derivation import Derivation


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    name: Mapped[str | None]
    email: Mapped[str] = mapped_column(unique=True)
    upper_name: Mapped[str] = mapped_column(sa.Computed("upper(name)"))
    extra: Mapped[dict[str, str]] = mapped_column(HSTORE)


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    status: Mapped[str]
    placed: Mapped[int | None]
    weight: Mapped[float] = mapped_column(sa.Float, default=0.0)
    customer: Mapped[Customer] = relationship()
    lines: Mapped[list[Line]] = relationship(back_populates="order")


class Line(Base):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    product_id: Mapped[int | None] = mapped_column(ForeignKey("products.id"))
    total: Mapped[int]
    order: Mapped[Order] = relationship(back_populates="lines")


class Product(Base):
    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Setting(Base):
    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


def derive(query, key=("id",), where=(), affects=()):
    return Derivation(query, list(key), list(where), [one.__table__ for one in affects])


def links(derivation):
    return {table.name: columns for table, columns in derivation.links.items()}


def ways(derivation):
    """By table, the tables that a change of it passes through."""
    return {
        start.table.name: sorted(one.table.name for one in way.occurrences)
        for start, way in derivation.ways.items()
    }


def count_of_lines():
    return select(func.count()).where(Line.order_id == Order.id).scalar_subquery()


# Derived


def test_joins_and_groups_give_their_join_columns_key_and_filters_as_links():
    query = (
        select(Order.id, Customer.tenant, Customer.name, func.sum(Line.total).label("total"))
        .join(Order.customer)
        .outerjoin(Line)
        .group_by(Order.id, Customer.id)
    )
    found = derive(query, where=["tenant"])
    assert links(found) == {
        "orders": ("customer_id", "id"),
        "customers": ("id", "tenant"),
        "lines": ("order_id",),
    }
    assert ways(found)["lines"] == ["customers", "lines", "orders"]
    assert ways(found)["orders"] == ["customers", "orders"]


def test_conditions_on_tables_that_are_surely_there_are_links():
    found = derive(select(Order.id).where(Order.status == "open", Order.placed > 3))
    assert links(found) == {"orders": ("id", "placed", "status")}


def test_a_condition_on_an_outer_join_is_on_no_way():
    """An anti-join: the line that appears takes the order away."""
    query = select(Order.id).outerjoin(Line).where(Line.id.is_(None))
    with pytest.raises(DeclarationError, match="not unique"):
        derive(query)
    found = derive(query.group_by(Order.id))
    assert links(found)["lines"] == ("order_id",)
    assert not found.certain


def test_an_outer_join_whose_nulls_are_refused_is_an_inner_one():
    query = select(Order.id, Line.id.label("line")).outerjoin(Line).where(Line.total > 3)
    found = derive(query, ["id", "line"])
    assert links(found)["lines"] == ("id", "order_id", "total")
    assert ways(found)["orders"] == ["lines", "orders"]


def test_an_outer_join_of_an_outer_join_passes_through_it():
    query = (
        select(Order.id, func.max(Product.name).label("name"))
        .select_from(Order)
        .outerjoin(Line)
        .outerjoin(Product, Product.id == Line.product_id)
        .group_by(Order.id)
    )
    found = derive(query)
    assert ways(found)["products"] == ["lines", "orders", "products"]
    assert ways(found)["lines"] == ["lines", "orders"]
    assert links(found)["lines"] == ("order_id", "product_id")


def test_an_inner_join_to_an_outer_one_makes_it_an_inner_one():
    query = (
        select(Order.id, func.max(Product.name).label("name"))
        .select_from(Order)
        .outerjoin(Line)
        .join(Product, Product.id == Line.product_id)
        .group_by(Order.id)
    )
    assert ways(derive(query))["orders"] == ["lines", "orders", "products"]


@pytest.mark.parametrize(
    "query",
    [
        select(Order.id, count_of_lines().label("lines")),
        select(Order.id).where(Order.lines.any(Line.total > 3)),
        select(Order.id).where(~Order.lines.any()),
        select(Order.id).where(sa.exists().where(Line.order_id == Order.id)),
        select(Order.id).where(Order.id.in_(select(Line.order_id))),
        select(Order.id).where(Order.id.not_in(select(Line.order_id))),
        select(Order.id).where(sa.or_(Order.status == "x", Order.id.in_(select(Line.order_id)))),
        select(Order.id).where(count_of_lines() > 2),
        select(Order.id).group_by(Order.id).having(count_of_lines() > 2),
        select(
            Order.id,
            select(Line.total)
            .where(Line.order_id == Order.id)
            .order_by(Line.id.desc())
            .limit(1)
            .scalar_subquery()
            .label("latest"),
        ),
    ],
)  # fmt: skip
def test_sub_queries_lead_to_the_rows_around_them(query):
    found = derive(query)
    assert ways(found)["lines"] == ["lines", "orders"]
    assert "order_id" in links(found)["lines"]


def test_a_relationship_may_be_asked_for_one():
    found = derive(select(Order.id).where(Order.customer.has(tenant=3)))
    assert links(found)["customers"] == ("id", "tenant")


def test_a_table_may_be_there_twice():
    other = aliased(Order)
    query = (
        select(Order.id, func.count(other.id).label("earlier"))
        .outerjoin(other, sa.and_(other.customer_id == Order.customer_id, other.id < Order.id))
        .group_by(Order.id)
    )
    found = derive(query)
    assert links(found) == {"orders": ("customer_id", "id")}
    assert len(found.ways) == 2


def test_a_sub_query_in_a_sub_query():
    inner = sa.exists().where(Product.id == Line.product_id, Product.name == "x")
    found = derive(select(Order.id).where(sa.exists().where(Line.order_id == Order.id, inner)))
    assert ways(found)["products"] == ["lines", "orders", "products"]


def test_core_tables_and_old_style_joins():
    orders, customers = Order.__table__, Customer.__table__
    query = select(orders.c.id, customers.c.tenant).where(orders.c.customer_id == customers.c.id)
    assert ways(derive(query, where=["tenant"]))["customers"] == ["customers", "orders"]


def test_a_whole_entity():
    found = derive(select(Order, Customer.tenant).join(Order.customer), where=["tenant"])
    assert list(found.names) == ["id", "customer_id", "status", "placed", "weight", "tenant"]


def test_distinct_by_what_it_selects():
    query = select(Customer.tenant).join(Order, Order.customer_id == Customer.id).distinct()
    assert links(derive(query, ["tenant"]))["customers"] == ("id", "tenant")


def test_a_key_may_follow_from_unique_columns():
    query = select(Customer.email, Order.id.label("order")).join(Order.customer)
    with pytest.raises(DeclarationError, match="several rows of 'orders'"):
        derive(query, ["email"])
    assert derive(query, ["order"])
    assert derive(select(Customer.email), ["email"])


def test_a_constant_is_part_of_a_unique_key():
    query = select(Order.id, Setting.value).join(Setting, Setting.name == "currency")
    assert derive(query, affects=[Setting])


def test_the_first_rows_are_those_of_recorded_columns():
    query = select(Order.id, Customer.name).join(Order.customer)
    found = derive(query.order_by(Order.placed.desc().nulls_last(), Customer.name).limit(50))
    assert found.limit == 50
    assert [one.name for one in found.order] == ["placed", "name"]
    assert "placed" in links(found)["orders"]
    assert "LIMIT" not in str(found.select)


def test_order_is_left_out():
    assert "ORDER BY" not in str(derive(select(Order.id).order_by(Order.placed)).select)


def test_tables_without_a_condition_may_be_named():
    query = select(Order.id, select(func.max(Setting.value)).scalar_subquery().label("most"))
    with pytest.raises(DeclarationError, match=r"affects=\[settings\]"):
        derive(query)
    found = derive(query, affects=[Setting])
    assert ways(found)["settings"] == ["orders", "settings"]
    assert links(found)["settings"] == ("name",)


# Refused

REFUSED = {
    "limit without order": (select(Order.id).limit(3), "LIMIT without order_by"),
    "limit of too many": (select(Order.id).order_by(Order.id).limit(9999), "1 to 1000"),
    "limit of groups": (
        select(Order.id, func.count().label("n")).group_by(Order.id).order_by(Order.id).limit(3),
        r"LIMIT with group_by\(\)",
    ),
    "limit by an expression": (
        select(Order.id).order_by(func.lower(Order.status)).limit(3),
        "plain columns",
    ),
    "limit with a sub-query": (
        select(Order.id).where(Order.lines.any()).order_by(Order.id).limit(3),
        "LIMIT with the condition",
    ),
    "offset": (select(Order.id).offset(3), "OFFSET"),
    "window": (select(Order.id, func.row_number().over().label("n")), "window function"),
    "full join": (select(Order.id).join(Line, full=True), "FULL JOIN"),
    "text in where": (select(Order.id).where(sa.text("1=1")), "text"),
    "text in columns": (select(Order.id, sa.text("now()")), "text"),
    "literal column": (select(Order.id, sa.literal_column("now()").label("n")), "literal_column"),
    "cte": (select(select(Order).cte("recent").c.id), "the CTE 'recent'"),
    "sub-query in from": (select(select(Order).subquery().c.id), "sub-query in FROM"),
    "lateral": (
        select(Order.id).join(select(Line).where(Line.order_id == Order.id).lateral(), sa.true()),
        "in FROM",
    ),
    "union": (sa.union(select(Order.id), select(Order.id)), "UNION"),
    "union inside": (
        select(Order.id).where(Order.id.in_(sa.union(select(Line.order_id), select(Line.id)))),
        "UNION",
    ),
    "now": (select(Order.id, func.now().label("now")), r"function now\(\)"),
    "random in where": (select(Order.id).where(func.random() > 3), r"function random\(\)"),
    "now in a sub-query": (
        select(Order.id).where(sa.exists().where(Line.total > func.now())),
        r"function now\(\)",
    ),
    "aggregate without group": (select(Order.id, func.count().label("n")), "without group_by"),
    "key not grouped": (select(Order.id, func.count().label("n")).group_by(Order.status), "group"),
    "no such key": (select(Order.status), "does not select"),
    "expression as key": (select((Order.id + 1).label("id")), "an expression"),
    "key that may be null": (select(Order.placed.label("id")).distinct(), "may be NULL"),
    "key of a type without an order": (select(Order.weight.label("id")).distinct(), "Float"),
    "key of an outer join": (
        select(Line.id, Order.status).select_from(Order).outerjoin(Line),
        "inner-joined",
    ),
    "not unique": (select(Order.id, Line.total).join(Line), "not unique"),
    "not unique by distinct": (select(Order.id, Line.total).join(Line).distinct(), "DISTINCT"),
    "not unique by group": (
        select(Order.id, func.count().label("n")).join(Line).group_by(Order.id, Line.total),
        "grouped by lines.total",
    ),
    "same name twice": (select(Order.id, Customer.id).join(Customer), "called 'id'"),
    "cross join": (select(Order.id, Setting.name).select_from(Order, Setting), "not unique"),
    "in the first ones": (
        select(Order.id).where(
            Order.id.in_(select(Line.order_id).order_by(Line.total.desc()).limit(2))
        ),
        r"no condition leads from 'lines'.*affects=\[lines\]",
    ),
    "in one of each group": (
        select(Order.id).where(Order.id.in_(select(Line.order_id).group_by(Line.total))),
        "no condition leads from 'lines'",
    ),
    "a parameter without a value": (
        select(Order.id).where(Order.placed > sa.bindparam("since")),
        "parameter 'since' has no value.*where=",
    ),
    "a parameter that is asked for each time": (
        select(Order.id).where(Order.placed > sa.bindparam("since", callable_=lambda: 3)),
        "parameter 'since' has a callable",
    ),
    "a parameter of our own": (
        select(Order.id).where(Order.placed > sa.bindparam("count", 3)),
        "parameter 'count'.*another name",
    ),
    "not in with nulls": (
        select(Order.id).where(Order.id.not_in(select(Line.product_id))),
        "may be NULL",
    ),
    "not in of a null": (
        select(Order.id).where(Order.placed.not_in(select(Line.total))),
        "NOT IN of orders.placed, which may be NULL",
    ),
    "not in of an outer join": (
        select(Order.id).outerjoin(Line).where(Line.total.not_in(select(Line.total)))
        .group_by(Order.id),
        "NOT IN of lines.total",
    ),
    "generated column as a link": (
        select(Customer.id).where(Customer.upper_name == "X"),
        "generated column",
    ),
    "hstore as a link": (
        select(Customer.id).where(Customer.extra.is_not(None)),
        "customers.extra is an HSTORE",
    ),
    "group by an expression": (
        select(Order.id, func.count().label("n")).group_by(Order.id, func.lower(Order.status)),
        "group by columns",
    ),
    "correlated by hand": (
        select(
            Order.id,
            select(func.count()).where(Line.order_id == Order.id).correlate(None)
            .scalar_subquery().label("n"),
        ),
        "an alias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_derived_is_refused_with_what_to_write(name):
    query, message = REFUSED[name]
    with pytest.raises(DeclarationError, match=message):
        derive(query)


def test_filters_are_plain_columns_of_tables_that_are_surely_there():
    outer = select(Order.id, Line.total).outerjoin(Line).group_by(Order.id, Line.total)
    with pytest.raises(DeclarationError, match="may be missing"):
        derive(outer, where=["total"])
    with pytest.raises(DeclarationError, match=r"where= names 'tenant', which the query does not"):
        derive(select(Order.id), where=["tenant"])
    with pytest.raises(DeclarationError, match="an expression"):
        derive(select(Order.id, func.lower(Order.status).label("s")), where=["s"])


def test_arguments_are_checked():
    with pytest.raises(DeclarationError, match=r"give a list: \['id'\]"):
        Derivation(select(Order.id), "id")
    with pytest.raises(DeclarationError, match="at least one"):
        Derivation(select(Order.id), [])
    ambiguous = select(Order.id, Product.name).outerjoin(Line)
    with pytest.raises(DeclarationError, match="which FROM clause"):
        derive(ambiguous)
    with pytest.raises(DeclarationError, match="does not read"):
        derive(select(Order.id), affects=[Setting])


@pytest.mark.parametrize("collation", ["NOCASE", "C", None])
def test_groups_of_texts_that_are_equal_have_no_key(collation):
    table = sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(9, collation), nullable=False),
    )
    chosen = sa.select(table.c.name)
    for query in (chosen.distinct(), chosen.group_by(table.c.name)):
        if collation == "NOCASE":
            with pytest.raises(DeclarationError, match="key= names 'name'.*a group shows any one"):
                derive(query, ["name"])
        else:
            assert derive(query, ["name"])


@pytest.mark.parametrize("kind", [sa.String(9, collation="NOCASE"), sa.CHAR(9)])
def test_first_rows_for_each_of_texts_that_are_equal_are_refused(kind):
    table = sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", kind),
    )
    track_table(table, keyed=True)
    query = sa.select(table.c.id, table.c.name).order_by(table.c.id).limit(3)
    with pytest.raises(DeclarationError, match="where= names 'name'.*different texts are equal"):
        LiveQuery(sqlite_engine("sqlite:///unused.db"), query, key=["id"], where=["name"])


class XML(sa.types.UserDefinedType):
    cache_ok = True

    def get_col_spec(self, **_):
        return "xml"


@pytest.mark.parametrize(
    "kind", [sa.JSON(), XML(), JSONB(), sa.JSON().with_variant(JSONB(), "postgresql")]
)
def test_types_without_an_equality_are_refused_on_postgresql_alone(tmp_path, kind):
    table = sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("part", kind),
    )
    track_table(table, keyed=True)
    chosen = sa.select(table.c.id, table.c.part)
    LiveQuery(
        sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}"), chosen, key=["id"], where=["part"]
    )
    postgresql = create_async_engine("postgresql+psycopg://127.0.0.1/unused")
    LiveQuery(postgresql, chosen, key=["id"])
    for query, where in ((chosen, ["part"]), (chosen.distinct(), [])):
        if isinstance(kind.dialect_impl(postgresql.dialect), JSONB):
            LiveQuery(postgresql, query, key=["id"], where=where)
            continue
        with pytest.raises(DeclarationError, match="'part' is of type (JSON|xml).* no equality"):
            LiveQuery(postgresql, query, key=["id"], where=where)
