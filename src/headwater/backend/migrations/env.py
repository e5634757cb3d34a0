"""Alembic runs this. The connection, and its transaction, are the caller's."""

from alembic import context

from headwater.backend.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
