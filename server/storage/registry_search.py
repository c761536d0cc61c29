"""Registries, the collections in them and the versions in those, as they are searched for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, true

from server.storage import places
from server.storage.places import Key
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
    connection: Connection, scope: Scope, wanted: Condition, order: Key, behind: Sequence[Any] | None, limit: int
) -> list[Sequence[Any]]:
    """Return the places of registries, the last part of which are row numbers."""
    statement = select(projects.c.id).where(scope.condition, _or_any(wanted))
    return _page(connection, statement, order, projects.c.id, behind, limit)


def find_collections(
    connection: Connection,
    scope: Scope,
    wanted: Condition,
    kinds: Sequence[str],
    order: Key,
    behind: Sequence[Any] | None,
    limit: int,
) -> list[Sequence[Any]]:
    """Return the places of collections in registries, the last part of which are row numbers."""
    statement = _collections(scope, wanted, kinds)
    return _page(connection, statement, order, artifact_collections.c.id, behind, limit)


def count_collections(connection: Connection, scope: Scope, wanted: Condition, kinds: Sequence[str]) -> int:
    """Return how many collections there are."""
    statement = _collections(scope, wanted, kinds).with_only_columns(func.count())
    return connection.scalar(statement) or 0


def find_memberships(
    connection: Connection, scope: Scope, of_collection: Condition, wanted: Condition, after: int, limit: int
) -> list[AnyRow]:
    """Return committed versions in collections of registries, as rows of memberships behind that one."""
    statement = (
        select(artifact_memberships)
        .join(artifact_collections, artifact_collections.c.id == artifact_memberships.c.collection_id)
        .join(projects, projects.c.id == artifact_collections.c.project_id)
        .join(artifacts, artifacts.c.id == artifact_memberships.c.artifact_id)
        .where(
            scope.condition,
            artifact_collections.c.deleted_at.is_(None),
            artifacts.c.state == "COMMITTED",
            artifact_memberships.c.id > after,
            _or_any(of_collection),
            _or_any(wanted),
        )
    )
    return list(connection.execute(statement.order_by(artifact_memberships.c.id).limit(limit)))


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
    order: Key,
    row_id: ColumnElement[int],
    behind: Sequence[Any] | None,
    limit: int,
) -> list[Sequence[Any]]:
    rows = connection.execute(places.page(statement, [order], row_id, behind, limit))
    return [places.place_of(row, [order]) for row in rows]


def _or_any(condition: Condition) -> ColumnElement[bool]:
    return and_(true(), condition) if condition is not None else true()
