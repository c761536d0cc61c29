"""Views of a project: reports, their drafts, and saved workspaces. What one shows is the client's text."""

from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select, update

from server.errors import NotFound
from server.storage.rows import AnyRow
from server.storage.tables import entities, projects, users, views

_FULL = (
    select(
        views,
        projects.c.name.label("project_name"),
        projects.c.entity_id,
        entities.c.name.label("entity_name"),
        users.c.username,
        users.c.email,
    )
    .join(projects, projects.c.id == views.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .join(users, users.c.id == views.c.created_by)
)


def by_id(connection: Connection, view_id: int) -> AnyRow:
    """Return the view of that row number, with its project, entity and user; `NotFound` if there is none."""
    row = connection.execute(_FULL.where(views.c.id == view_id)).first()
    if row is None:
        raise NotFound("There is no such view.")
    return row


def listing(
    connection: Connection, project_id: int, kind: str, name: str | None, username: str | None, after: int, limit: int
) -> list[AnyRow]:
    """Return a page of a project's views of a kind, in the order of their making; of a name or a user only, if said.

    The name is the client's own, which nobody sees, or the title, which is what people know a report by.
    """
    statement = _FULL.where(views.c.project_id == project_id, views.c.kind == kind, views.c.id > after)
    if name is not None:
        statement = statement.where(or_(views.c.name == name, views.c.display_name == name))
    if username is not None:
        statement = statement.where(users.c.username == username)
    return list(connection.execute(statement.order_by(views.c.id).limit(limit)))


def create(connection: Connection, project_id: int, *, user_id: int, now: float, **values: Any) -> int:
    """Add a view; returns its id."""
    statement = insert(views).values(
        project_id=project_id, created_by=user_id, created_at=now, updated_at=now, **values
    )
    return connection.execute(statement).inserted_primary_key[0]  # type: ignore[index]


def change(connection: Connection, view_id: int, now: float, **values: Any) -> None:
    """Set columns of a view."""
    connection.execute(update(views).where(views.c.id == view_id).values(updated_at=now, **values))


def remove(connection: Connection, view_id: int) -> None:
    """Delete a view."""
    connection.execute(delete(views).where(views.c.id == view_id))
