"""No item gets the id of one that was deleted: what an agent still has of that one would pass for the new one's.

PostgreSQL never gives an id twice.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    # SQLite changes such a thing only by a new table. The old one goes, and nothing that refers to it
    # (see `upgrade.py`).
    with op.batch_alter_table("run_queue_items", recreate="always", table_kwargs={"sqlite_autoincrement": True}):
        pass
    lost = connection.execute(sa.text("PRAGMA foreign_key_check")).all()
    if lost:
        raise RuntimeError(
            f"{len(lost)} rows refer to nothing, the first of them in {lost[0][0]}; nothing was changed."
        )
