"""Registries, the collections in them and the versions in those, as they are searched for. Pages go by offset."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, true

from server.storage.rows import AnyRow
from server.storage.tables import artifact_collections, artifact_memberships, artifacts, projects

Condition = ColumnElement[bool] | None


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to search."""

    entity_id: int
    registries: Collection[int] | None
    """The row numbers of those that are open to who asks. None: all of the entity's."""

    @property
    def condition(self) -> ColumnElement[bool]:
        """The SQL for the projects that are meant."""
        of_entity = projects.c.entity_id == self.entity_id
        return of_entity if self.registries is None else of_entity & projects.c.id.in_(self.registries)


def find_registries(
    connection: Connection, scope: Scope, wanted: Condition, order: ColumnElement[Any], offset: int, limit: int
) -> list[int]:
    """Return the row numbers of registries."""
    statement = select(projects.c.id).where(scope.condition, _or_any(wanted))
    return _page(connection, statement, order, projects.c.id, offset, limit)


def find_collections(
    connection: Connection,
    scope: Scope,
    wanted: Condition,
    kinds: Sequence[str],
    order: ColumnElement[Any],
    offset: int,
    limit: int,
) -> list[int]:
    """Return the row numbers of collections in registries."""
    statement = _collections(scope, wanted, kinds)
    return _page(connection, statement, order, artifact_collections.c.id, offset, limit)


def count_collections(connection: Connection, scope: Scope, wanted: Condition, kinds: Sequence[str]) -> int:
    """Return how many collections there are."""
    statement = _collections(scope, wanted, kinds).with_only_columns(func.count())
    return connection.scalar(statement) or 0


def find_memberships(
    connection: Connection, scope: Scope, of_collection: Condition, wanted: Condition, offset: int, limit: int
) -> list[AnyRow]:
    """Return committed versions in collections of registries, as rows of memberships."""
    statement = (
        select(artifact_memberships)
        .join(artifact_collections, artifact_collections.c.id == artifact_memberships.c.collection_id)
        .join(projects, projects.c.id == artifact_collections.c.project_id)
        .join(artifacts, artifacts.c.id == artifact_memberships.c.artifact_id)
        .where(
            scope.condition,
            artifact_collections.c.deleted_at.is_(None),
            artifacts.c.state == "COMMITTED",
            _or_any(of_collection),
            _or_any(wanted),
        )
    )
    return list(connection.execute(statement.order_by(artifact_memberships.c.id).offset(offset).limit(limit)))


def _collections(scope: Scope, wanted: Condition, kinds: Sequence[str]) -> Select[Any]:
    return (
        select(artifact_collections.c.id)
        .join(projects, projects.c.id == artifact_collections.c.project_id)
        .where(
            scope.condition,
            artifact_collections.c.deleted_at.is_(None),
            artifact_collections.c.kind.in_(kinds),
            _or_any(wanted),
        )
    )


def _page(
    connection: Connection,
    statement: Select[Any],
    order: ColumnElement[Any],
    row_id: ColumnElement[int],
    offset: int,
    limit: int,
) -> list[int]:
    return list(connection.scalars(statement.order_by(order, row_id).offset(offset).limit(limit)))


def _or_any(condition: Condition) -> ColumnElement[bool]:
    return and_(true(), condition) if condition is not None else true()
