"""Automations: what they wait for, where they send it, and what came of that. Alerts of runs are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

WAITING = sa.text("state = 'WAITING'")


def _row(name: str, *, nullable: bool = False, **more: bool) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=nullable, **more)


def _reference(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")


def _index(table: str, column: str) -> None:
    op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)


def upgrade() -> None:
    op.create_table(
        "integrations",
        _row("id", autoincrement=True),
        _row("entity_id"),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("access_token", sa.Text(), nullable=True),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("gets_alerts", sa.Boolean(), nullable=False),
        sa.Column("reaches_all", sa.Boolean(), nullable=False),
        _row("created_by"),
        sa.Column("created_at", sa.Double(), nullable=False),
        _reference("integrations", "entity_id", "entities"),
        _reference("integrations", "created_by", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_integrations")),
        sa.UniqueConstraint("entity_id", "name", name=op.f("uq_integrations_entity_id_name")),
    )
    op.create_table(
        "automations",
        _row("id", autoincrement=True),
        _row("entity_id"),
        _row("project_id", nullable=True),
        _row("collection_id", nullable=True),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("event_type", sa.String(length=32), nullable=False),
        sa.Column("filter", sa.Text(), nullable=False),
        sa.Column("action_type", sa.String(length=32), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        _row("integration_id", nullable=True),
        _row("created_by"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=True),
        _reference("automations", "entity_id", "entities"),
        _reference("automations", "project_id", "projects"),
        _reference("automations", "collection_id", "artifact_collections"),
        _reference("automations", "integration_id", "integrations"),
        _reference("automations", "created_by", "users"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_automations")),
        sa.UniqueConstraint("entity_id", "name", name=op.f("uq_automations_entity_id_name")),
    )
    for column in ("project_id", "collection_id", "integration_id"):
        _index("automations", column)
    op.create_table(
        "watched_runs",
        _row("run_id", autoincrement=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("told", sa.String(length=16), nullable=True),
        sa.Column("lines_read", sa.Integer(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        _reference("watched_runs", "run_id", "runs"),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_watched_runs")),
    )
    op.create_table(
        "run_alerts",
        _row("id", autoincrement=True),
        _row("run_id"),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("severity", sa.String(length=8), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        _reference("run_alerts", "run_id", "runs"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_alerts")),
    )
    _index("run_alerts", "run_id")
    op.create_table(
        "deliveries",
        _row("id", autoincrement=True),
        _row("entity_id"),
        _row("automation_id", nullable=True),
        _row("integration_id", nullable=True),
        sa.Column("event_type", sa.String(length=32), nullable=False),
        sa.Column("variables", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        _reference("deliveries", "entity_id", "entities"),
        _reference("deliveries", "automation_id", "automations"),
        _reference("deliveries", "integration_id", "integrations"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    for column in ("entity_id", "automation_id", "integration_id"):
        _index("deliveries", column)
    op.create_index("ix_deliveries_due_at", "deliveries", ["due_at"], sqlite_where=WAITING, postgresql_where=WAITING)
