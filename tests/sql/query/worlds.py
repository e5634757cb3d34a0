"""Random schemas, random queries that can be derived, and random transactions over them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql._declaration import track_table
from headwater.sql._links import declare_links
from headwater.sql.query._derivation import Derivation

# Few values, so that rows meet.
DOMAIN = 4


@dataclass
class World:
    """A schema and the queries over it."""

    random: random.Random
    metadata: sa.MetaData = field(default_factory=sa.MetaData)
    tables: list[sa.Table] = field(default_factory=list)
    queries: list[Derivation] = field(default_factory=list)
    tried: int = 0
    # Of the labels.
    text: Any = sa.String(20)

    @classmethod
    def of(cls, seed: int, queries: int, blind: Any) -> World:
        """One with as many queries. In some worlds labels in large and small letters are equal."""
        world = cls(random.Random(seed))
        if world.random.random() < 0.4:
            world.text = blind
        world.make_tables()
        while len(world.queries) < queries:
            world.tried += 1
            made = world.query()
            if made is not None:
                world.queries.append(made)
        for table in world.tables:
            track_table(table, keyed=True)
        for query in world.queries:
            for table, links in query.links.items():
                declare_links(table, links)
        return world

    # Schema

    def make_tables(self) -> None:
        pick = self.random
        for at in range(pick.randint(2, 5)):
            name = f"r{at}"
            text = pick.random() < 0.25
            columns: list[Any] = [
                sa.Column("id", sa.String(20) if text else sa.Integer, primary_key=True)
            ]
            if pick.random() < 0.15:
                columns.append(sa.Column("part", sa.Integer, primary_key=True, autoincrement=False))
            for other in self.tables:
                if pick.random() < 0.6 and len(other.primary_key.columns) == 1:
                    columns.append(self.reference(other))
            columns += [
                sa.Column("a", sa.Integer, nullable=False),
                sa.Column("b", sa.Integer, nullable=True),
                sa.Column("label", self.text, nullable=True),
            ]
            unique = pick.random() < 0.2
            extra = [sa.UniqueConstraint("a", "label", name=f"uq_{name}")] if unique else []
            self.tables.append(sa.Table(name, self.metadata, *columns, *extra))

    def reference(self, other: sa.Table) -> sa.Column[Any]:
        pick = self.random
        nullable = pick.random() < 0.5
        kind = other.c.id.type
        name = f"{other.name}_id"
        how = pick.choice(["none", "none", "cascade", "set null"])
        if how == "none":
            return sa.Column(name, kind, nullable=nullable)
        rule = "CASCADE" if how == "cascade" or not nullable else "SET NULL"
        key = sa.ForeignKey(other.c.id, ondelete=rule, onupdate=rule)
        return sa.Column(name, kind, key, nullable=nullable)

    # Queries

    def query(self) -> Derivation | None:
        pick = self.random
        used: list[Any] = []
        outer: list[Any] = []

        def occurrence() -> Any:
            table = pick.choice(self.tables)
            made = table if table not in used and pick.random() < 0.6 else table.alias()
            used.append(made)
            return made

        joined: Any = occurrence()
        core = [joined]
        for _ in range(pick.choice([0, 1, 1, 1, 2, 2, 3])):
            new = occurrence()
            left = pick.random() < 0.4
            nested = None
            if pick.random() < 0.1:
                inner = occurrence()
                nested = self.on(inner, [new])
                right = sa.join(new, inner, nested)
            else:
                right = new
            on = self.on(
                new, [one for one in used if one is not new and one is not right][: len(used) - 1]
            )
            if nested is not None:
                on = self.on(new, [*core, *outer])
            joined = sa.join(joined, right, on, isouter=left)
            added = [new] if nested is None else [new, inner]
            (outer if left else core).extend(added)
        wheres = [self.where([*core, *outer]) for _ in range(pick.choice([0, 0, 1, 1, 2]))]
        keys = self.keys(core)
        tenant = pick.choice(core).c.a.label("tenant")
        columns = [*keys, tenant]
        how = pick.choice(["plain", "first", "first", "group", "group", "having", "distinct"])
        if how == "distinct":
            one = pick.choice(core)
            keys = [one.c.a.label("k0"), pick.choice(core).c.a.label("k1")]
            select = sa.select(*keys).distinct()
            return self.derived(select.select_from(joined).where(*wheres), ["k0", "k1"], ["k1"])
        for at in range(pick.choice([0, 0, 1])):
            columns.append(self.scalar(core if how != "plain" else [*core, *outer]).label(f"s{at}"))
        where = ["tenant"]
        if how == "plain":
            columns += self.filters(core, where)
        if how in ("plain", "first"):
            for at, one in enumerate([*core, *outer]):
                columns += [one.c.b.label(f"b{at}"), one.c.label.label(f"l{at}")]
            select = sa.select(*columns).select_from(joined).where(*wheres)
            if how == "first":
                plain = [
                    one.c.a > pick.randrange(2) for one in pick.sample(core, pick.randint(0, 1))
                ]
                select = sa.select(*columns).select_from(joined).where(*plain)
                some = [pick.choice(core).c[pick.choice(["a", "b", "label"])] for _ in range(2)]
                order = [c.desc() if pick.random() < 0.5 else c for c in some]
                limited = select.order_by(*order).limit(pick.randint(1, 4))
                made = self.derived(limited, [k.name for k in keys], ["tenant"])
                if made is not None:
                    return made
            return self.derived(select, [k.name for k in keys], where)
        some = pick.sample(core, pick.randint(1, len(core)))
        keys = self.keys(some)
        tenant = pick.choice(some).c.a.label("tenant")
        first = pick.choice([*core, *outer])
        more = self.filters(some, where)
        columns = [
            *keys,
            tenant,
            *more,
            sa.func.count(first.c.b).label("n"),
            sa.func.sum(first.c.a).label("sum"),
        ]
        group = [each.element for each in (*keys, tenant, *more)]
        select = sa.select(*columns).select_from(joined).where(*wheres).group_by(*group)
        if how == "having":
            select = select.having(sa.func.count(first.c.id) > pick.randint(0, 2))
        return self.derived(select, [k.name for k in keys], where)

    def filters(self, occurrences: list[Any], where: list[str]) -> list[Any]:
        """Columns that may be NULL, to filter by; their names are added."""
        found = []
        for name in self.random.choice([[], ["b"], ["label"], ["b", "label"]]):
            found.append(self.random.choice(occurrences).c[name].label(f"by_{name}"))
            where.append(f"by_{name}")
        return found

    def conditions(self, derivation: Derivation) -> list[Any]:
        """One or two random conditions over the columns that a query is filtered by."""
        selected = derivation.select.selected_columns
        columns = [selected[name].element for name in derivation.filters]
        return [self.condition(columns, 2) for _ in range(self.random.choice([1, 1, 2]))]

    def condition(self, columns: list[Any], depth: int) -> Any:
        pick = self.random
        column = pick.choice(columns)
        text = isinstance(column.type, sa.String)
        one, two = ("x", pick.choice(["xy", "Y", "é"])) if text else (pick.randrange(DOMAIN), 1)
        if depth and pick.random() < 0.3:
            some = [self.condition(columns, depth - 1) for _ in range(2)]
            return pick.choice([sa.or_(*some), sa.and_(*some), sa.not_(sa.or_(*some))])
        made = [
            column == one,
            column != one,
            column > one,
            column <= one,
            column.between(min(one, two), max(one, two)),
            column.in_([one, two]),
            column.not_in([one, two]),
            column.is_(None),
            column.is_not(None),
            column.is_distinct_from(one),
            sa.func.coalesce(column, two) >= one,
            sa.func.nullif(column, one).is_(None),
        ]
        if text:
            made += [sa.func.lower(column) == one, column.like("x%"), ~column.startswith("X")]
        return pick.choice(made)

    def derived(self, select: Any, key: list[str], where: list[str]) -> Derivation | None:
        try:
            affects = self.tables if self.random.random() < 0.05 else ()
            return Derivation(select, key, where, affects)
        except DeclarationError:
            return None

    def keys(self, occurrences: list[Any]) -> list[Any]:
        return [
            column.label(f"k{at}_{n}")
            for at, one in enumerate(occurrences)
            for n, column in enumerate(list(one.primary_key))
        ]

    def on(self, new: Any, others: list[Any]) -> Any:
        pick = self.random
        other = pick.choice(others)
        pairs = [(new.c.a, other.c.a), (new.c.a, other.c.b), (new.c.b, other.c.a)]
        pairs.append((new.c.label, other.c.label))
        for one, two in ((new, other), (other, new)):
            for column in one.c:
                if column.name.endswith("_id") and type(column.type) is type(two.c.id.type):
                    pairs += [(column, two.c.id)] * 4
        left, right = pick.choice(pairs)
        condition = left == right
        roll = pick.random()
        if roll < 0.1:
            condition = sa.and_(condition, new.c.a <= other.c.a)
        elif roll < 0.2:
            condition = sa.and_(condition, new.c.b == pick.randrange(DOMAIN))
        elif roll < 0.25:
            condition = sa.or_(condition, new.c.b == other.c.b)
        elif roll < 0.3:
            condition = sa.and_(condition, new.c.b.is_not(None))
        elif roll < 0.35:
            condition = sa.and_(condition, self.exists([new, other]))
        return condition

    def where(self, occurrences: list[Any]) -> Any:
        pick = self.random
        one = pick.choice(occurrences)
        value = pick.randrange(DOMAIN)
        return pick.choice(
            [
                lambda: one.c.a == value,
                lambda: one.c.a != value,
                lambda: one.c.b > value,
                lambda: one.c.b.is_(None),
                lambda: one.c.id.is_(None),
                lambda: one.c.label == "x",
                lambda: one.c.label.like("x%"),
                lambda: one.c.label.in_(["xy", "y"]),
                lambda: sa.func.coalesce(one.c.label, "x") != "y",
                lambda: one.c.a.in_([value, 0]),
                lambda: sa.or_(one.c.b.is_(None), one.c.a < value),
                lambda: sa.or_(one.c.a == value, self.exists(occurrences)),
                lambda: sa.func.coalesce(one.c.b, 1) >= value,
                lambda: self.exists(occurrences),
                lambda: ~self.exists(occurrences),
                lambda: self.among(one),
                lambda: self.scalar(occurrences) > value,
            ]
        )()

    def exists(self, occurrences: list[Any]) -> Any:
        inner = self.random.choice(self.tables).alias()
        query = sa.select(sa.literal(1)).select_from(inner).where(self.on(inner, occurrences))
        if self.random.random() < 0.3:
            query = query.where(inner.c.b == self.random.randrange(DOMAIN))
        return query.correlate(*occurrences).exists()

    def among(self, one: Any) -> Any:
        inner = self.random.choice(self.tables).alias()
        query = sa.select(inner.c.a).where(inner.c.b > self.random.randrange(DOMAIN))
        return one.c.a.not_in(query) if self.random.random() < 0.5 else one.c.a.in_(query)

    def scalar(self, occurrences: list[Any]) -> Any:
        pick = self.random
        inner = pick.choice(self.tables).alias()
        if pick.random() < 0.3:
            # The latest of each.
            order = [inner.c.a.desc(), *list(inner.primary_key)]
            query = sa.select(inner.c.b).order_by(*order).limit(1)
        else:
            query = sa.select(pick.choice([sa.func.count(), sa.func.max(inner.c.b)]))
        query = query.select_from(inner).where(self.on(inner, occurrences))
        return query.correlate(*occurrences).scalar_subquery()

    # Rows

    def value(self, column: sa.Column[Any]) -> Any:
        pick = self.random
        if column.nullable and pick.random() < 0.25:
            return None
        if isinstance(column.type, sa.String):
            if column.name == "label":
                return pick.choice(["x", "X", "xy", "y", "é", "É"])
            return pick.choice(["A", "a", "b", "é", "Z", "ß"])
        return pick.randrange(7 if column.name == "id" or column.name.endswith("_id") else DOMAIN)

    def statement(self, dialect: str) -> Any:
        """One random statement that writes."""
        pick = self.random
        table = pick.choice(self.tables)
        own = [column for column in table.columns if not column.name.startswith("headwater")]
        roll = pick.random()
        if roll < 0.5:
            made: Any = sa.insert(table).values({c.name: self.value(c) for c in own})
            if dialect == "sqlite":
                return made.prefix_with(pick.choice(["OR IGNORE", "OR REPLACE", "OR REPLACE"]))
            return made
        condition = sa.and_(
            *(c == self.value(c) for c in pick.sample(own, 1)),
        )
        if roll < 0.87:
            some = pick.sample(own, pick.randint(1, 2))
            made = sa.update(table).where(condition).values({c.name: self.value(c) for c in some})
            if dialect == "sqlite" and pick.random() < 0.3:
                made = made.prefix_with("OR REPLACE")
            return made
        if roll < 0.99 or dialect == "sqlite":
            return sa.delete(table).where(condition)
        return sa.text(f"TRUNCATE {table.name} CASCADE")
