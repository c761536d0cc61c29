"""What nothing needs any more is found, and removed from the object store."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "discarded_objects",
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("discarded_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_discarded_objects")),
        sqlite_with_rowid=False,
    )
    op.add_column("artifact_contents", sa.Column("unused_since", sa.Double(), nullable=True))
    _create_partial_index("artifact_contents", ["unused_since"], "unused_since IS NOT NULL", "unused_since")
    _create_partial_index("artifact_entries", ["digest"], "ref IS NULL", "digest")
    _create_partial_index("artifacts", ["state", "updated_at"], "state <> 'COMMITTED'", "state")
    _create_partial_index("runs", ["deleted_at"], "deleted_at IS NOT NULL", "deleted_at")


def _create_partial_index(table: str, columns: list[str], condition: str, name: str) -> None:
    where = sa.text(condition)
    op.create_index(f"ix_{table}_{name}", table, columns, sqlite_where=where, postgresql_where=where)
