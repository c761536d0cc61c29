"""Runs in shared mode."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "run_writers",
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("writer", sa.String(length=128), nullable=False),
        sa.Column("stream", sa.SmallInteger(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_writers_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "writer", "stream", name=op.f("pk_run_writers")),
        sqlite_with_rowid=False,
    )
