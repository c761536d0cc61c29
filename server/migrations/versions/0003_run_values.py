"""What runs are found by."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "run_values",
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("place", sa.SmallInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("element", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("project_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("text", sa.String(length=64), nullable=True),
        sa.Column("rest", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_run_values_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_values_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "place", "path", "element", name=op.f("pk_run_values")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_run_values_number", "run_values", ["project_id", "place", "path", "kind", "number", "run_id"])
    op.create_index("ix_run_values_text", "run_values", ["project_id", "place", "path", "text", "run_id"])
    op.drop_index("ix_runs_project_id_created_at", "runs")
    op.create_index(
        "ix_runs_project_id_created_at",
        "runs",
        ["project_id", "created_at"],
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    """Note the values of the runs that are there."""
    from server.storage import run_values
    from server.storage.run_values import Place

    runs = sa.table("runs", *map(sa.column, ("id", "project_id", "config", "summary", "tags")))
    for run_id in connection.scalars(sa.select(runs.c.id)).all():
        row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).one()
        for place, text in ((Place.CONFIG, row.config), (Place.SUMMARY, row.summary), (Place.TAGS, row.tags)):
            run_values.change(connection, run_id, row.project_id, place, None, text)
