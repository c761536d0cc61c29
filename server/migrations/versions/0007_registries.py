"""Registries: who has which role in them, and what may be linked to them; versions by metadata and time to live."""

import sqlalchemy as sa
from alembic import op

from server import json_text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("any_artifact_type", sa.Boolean(), nullable=False, server_default=sa.true()))
        batch_op.add_column(sa.Column("updated_at", sa.Double(), nullable=True))
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.alter_column("any_artifact_type", server_default=None)

    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("metadata_json", sa.Text(), nullable=True))
        batch_op.create_index(
            "ix_artifacts_ttl_seconds",
            ["ttl_seconds"],
            unique=False,
            sqlite_where=sa.text("ttl_seconds > 0 AND state = 'COMMITTED'"),
            postgresql_where=sa.text("ttl_seconds > 0 AND state = 'COMMITTED'"),
        )
    artifacts = sa.table("artifacts", sa.column("id"), sa.column("metadata"), sa.column("metadata_json"))
    connection = op.get_bind()
    for row in connection.execute(
        sa.select(artifacts.c.id, artifacts.c.metadata).where(artifacts.c.metadata.is_not(None))
    ):
        proper = json_text.proper(row.metadata)
        connection.execute(sa.update(artifacts).where(artifacts.c.id == row.id).values(metadata_json=proper))

    for table, column, target in (("registry_users", "user_id", "users"), ("registry_teams", "entity_id", "entities")):
        op.create_table(
            table,
            sa.Column("project_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
            sa.Column(column, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
            sa.Column("role", sa.String(length=32), nullable=False),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name=op.f(f"fk_{table}_project_id"), ondelete="CASCADE"
            ),
            sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE"),
            sa.PrimaryKeyConstraint("project_id", column, name=op.f(f"pk_{table}")),
        )
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.create_index(batch_op.f(f"ix_{table}_{column}"), [column], unique=False)
