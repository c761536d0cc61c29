"""What runs have alerted to."""

from typing import Any

from sqlalchemy import Connection, insert, select

from server.storage.rows import AnyRow
from server.storage.tables import projects, run_alerts, runs


def add(connection: Connection, run_id: int, *, title: str, text: str, severity: str, now: float) -> None:
    """Keep an alert."""
    row = {"run_id": run_id, "title": title, "text": text, "severity": severity, "created_at": now}
    connection.execute(insert(run_alerts), row)


def is_repeated(connection: Connection, run_id: int, title: str, since: float) -> bool:
    """Whether a run has alerted under this title since then."""
    same = (run_alerts.c.run_id == run_id, run_alerts.c.title == title, run_alerts.c.created_at > since)
    return connection.scalar(select(run_alerts.c.id).where(*same).limit(1)) is not None


def newest(connection: Connection, entity_id: int, limit: int) -> list[AnyRow]:
    """Return the alerts of an entity's runs, newest first."""
    columns: list[Any] = [
        runs.c.name.label("run_name"),
        runs.c.display_name.label("run_display_name"),
        projects.c.name.label("project_name"),
    ]
    statement = (
        select(run_alerts, *columns)
        .join(runs, runs.c.id == run_alerts.c.run_id)
        .join(projects, projects.c.id == runs.c.project_id)
        .where(projects.c.entity_id == entity_id, runs.c.deleted_at.is_(None))
    )
    return list(connection.execute(statement.order_by(run_alerts.c.id.desc()).limit(limit)))
