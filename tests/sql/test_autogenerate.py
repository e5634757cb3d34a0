"""Alembic's autogenerate writes the calls that track a table, and then proposes nothing more."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.sql import track
from headwater.sql.alembic import add_tracking, drop_tracking

OPTIONS = {"include_schemas": True, "compare_server_default": True, "compare_type": True}


def models(schema=None, *, keyed=True, tracked=True, indexes=()):
    class Base(DeclarativeBase):
        metadata = sa.MetaData(schema=schema)

    class Log(Base):
        __tablename__ = "logs"
        id: Mapped[int] = mapped_column(primary_key=True)
        level: Mapped[str] = mapped_column(server_default="info")

    class Client(Base):
        __tablename__ = "clients"
        id: Mapped[int] = mapped_column(primary_key=True)
        user_id: Mapped[int]
        name: Mapped[str | None] = mapped_column(unique=True)

    track(indexes=indexes)(Log)
    if tracked:
        track(keyed=keyed, filters=("user_id",) if keyed else ())(Client)
    return Base.metadata


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.long),
        pytest.param("postgresql with a schema", marks=pytest.mark.long),
    ]
)
def place(request, tmp_path):
    """A connection, and the schema of the models."""
    if request.param == "sqlite":
        engine = sa.create_engine(f"sqlite:///{tmp_path}/data.db")
        with engine.connect() as connection:
            yield connection, None
        engine.dispose()
        return
    postgres = request.getfixturevalue("postgres")
    name = postgres.database()
    engine = sa.create_engine(postgres.url(name))
    with engine.connect() as connection:
        schema = "app" if "schema" in request.param else None
        if schema is not None:
            connection.execute(sa.text("CREATE SCHEMA app"))
        yield connection, schema
    engine.dispose()
    postgres.drop(name)


def proposed(connection, metadata):
    context = MigrationContext.configure(connection, opts=OPTIONS)
    return context, produce_migrations(context, metadata)


def run(context, operations):
    code = render_python_code(operations, migration_context=context)
    names = {"op": Operations(context), "sa": sa, "add_tracking": add_tracking}
    body = "\n".join(line.removeprefix("    ") for line in code.splitlines())
    exec(body, names | {"drop_tracking": drop_tracking})  # noqa: S102 - as Alembic runs it
    return code


def test_new_tables_are_made_tracked_and_dropped(place):
    connection, schema = place
    metadata = models(schema)
    context, script = proposed(connection, metadata)
    code = run(context, script.upgrade_ops)
    assert "add_tracking(op, 'clients', keyed=True, filters=['user_id']" in code
    assert "headwater" not in code
    again = proposed(connection, metadata)[1]
    assert again.upgrade_ops.as_diffs() == []
    logs = metadata.tables["logs" if schema is None else f"{schema}.logs"]
    connection.execute(logs.insert().values(level="error"))
    _, none = proposed(connection, sa.MetaData(schema=schema))
    code = run(context, none.upgrade_ops)
    assert code.count("drop_tracking") == 2
    assert proposed(connection, sa.MetaData(schema=schema))[1].upgrade_ops.as_diffs() == []


def test_a_declaration_that_changes(place):
    connection, schema = place
    context, script = proposed(connection, models(schema))
    run(context, script.upgrade_ops)
    for changed in (
        models(schema, indexes=[("level",)]),
        models(schema, keyed=False),
        models(schema, tracked=False),
        models(schema),
    ):
        _, script = proposed(connection, changed)
        assert len(script.upgrade_ops.as_diffs()) >= 1
        run(context, script.upgrade_ops)
        assert proposed(connection, changed)[1].upgrade_ops.as_diffs() == []


def test_triggers_that_are_gone(place):
    connection, schema = place
    metadata = models(schema)
    metadata.create_all(connection)
    assert proposed(connection, metadata)[1].upgrade_ops.as_diffs() == []
    name = "headwater_logs_insert"
    on = "" if connection.dialect.name == "sqlite" else f" ON {schema + '.' if schema else ''}logs"
    connection.exec_driver_sql(f"DROP TRIGGER {name}{on}")
    context, script = proposed(connection, metadata)
    assert script.upgrade_ops.as_diffs() == [
        ("add_tracking", f"{schema}.logs" if schema else "logs")
    ]
    run(context, script.upgrade_ops)
    assert proposed(connection, metadata)[1].upgrade_ops.as_diffs() == []
