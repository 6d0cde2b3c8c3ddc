"""Run by Alembic for every command; `producer.store.migrate` gives the connection and its transaction."""

import sqlalchemy as sa
from alembic import context

from producer.store.schema import metadata

_connection: sa.Connection = context.config.attributes["connection"]

# SQLite can roll back DDL as well as PostgreSQL; Alembic only assumes that it cannot.
context.configure(
    connection=_connection,
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=_connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
