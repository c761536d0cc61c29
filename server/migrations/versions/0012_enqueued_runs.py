"""Runs are put into a sweep by somebody; they have no agent until one asks."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("sweep_runs") as batch_op:
        batch_op.alter_column("agent_id", nullable=True)
        batch_op.add_column(sa.Column("enqueued", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("sweep_runs") as batch_op:
        batch_op.alter_column("enqueued", server_default=None)
