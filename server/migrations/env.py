"""Alembic's entry: runs the revisions on the connection that `upgrade` hands over."""

from alembic import context

from server.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
