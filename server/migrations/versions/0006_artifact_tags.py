"""Tags of artifact versions and of their collections; collections of links, the name of whose kind is long."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("artifact_collections", schema=None) as batch_op:
        batch_op.alter_column(
            "kind", type_=sa.String(length=32), existing_type=sa.String(length=16), existing_nullable=False
        )
    op.create_table(
        "artifact_tags",
        sa.Column("artifact_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifacts.id"], name=op.f("fk_artifact_tags_artifact_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("artifact_id", "name", name=op.f("pk_artifact_tags")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "artifact_collection_tags",
        sa.Column("collection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["artifact_collections.id"],
            name=op.f("fk_artifact_collection_tags_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("collection_id", "name", name=op.f("pk_artifact_collection_tags")),
        sqlite_with_rowid=False,
    )
