"""Projects as they are read. Other nouns hang their own fields on the node made here; registries are projects, too."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.context import Context
from server.errors import Conflict, RequestError
from server.graphql import Info, Resolvers
from server.registry_roles import Role
from server.resolvers.paging import Page, connection_of
from server.storage import projects, registries, users
from server.storage.rows import AnyRow
from server.times import iso

resolvers = Resolvers()

MAX_NAME_CHARS = 128
FORBIDDEN_CHARS = "/ \\ # ? % :"


def node(row: AnyRow) -> dict[str, Any]:
    """Shape a project's row (with `entity_name`) for the SDL. `row_id` is for the resolvers of its fields."""
    return {
        **_identity(row.id, row.name, row.entity_id, row.entity_name),
        "description": row.description,
        "access": row.access,
        "views": "{}",
        "allowAllArtifactTypesInRegistry": row.any_artifact_type,
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "isBenchmark": False,
        "readOnly": False,
    }


def node_beside(row: AnyRow) -> dict[str, Any]:
    """Shape the project that another noun's row names beside its own columns."""
    return _identity(row.project_id, row.project_name, row.entity_id, row.entity_name)


def _identity(row_id: int, name: str, entity_id: int, entity: str) -> dict[str, Any]:
    return {
        "__typename": "Project",
        "row_id": row_id,
        "entity_id": entity_id,
        "id": ids.encode("Project", row_id),
        "internalId": ids.encode("ProjectInternalId", row_id),
        "name": name,
        "entityName": entity,
        "entity": {"row_id": entity_id, "id": ids.encode("Entity", entity_id), "name": entity},
    }


def check_name(name: str) -> None:
    """Raise `RequestError` unless this can be a project's name."""
    bad = set(name).intersection(FORBIDDEN_CHARS.split())
    if not name or len(name) > MAX_NAME_CHARS or bad or name in (".", ".."):
        raise RequestError(
            f"{name!r} cannot be a project's name: use 1 to {MAX_NAME_CHARS} characters without {FORBIDDEN_CHARS}"
        )


def ensure(connection: Connection, context: Context, entity: str, name: str) -> int:
    """Return the row of a project, made now if it is missing. Inside a write transaction; the right is checked here."""
    context.viewer.must_use(entity)
    entity_id = users.entity_id(connection, entity)
    if entity_id == registries.organization(connection).id:
        raise Conflict(
            f"{entity!r} is the organization, which has registries and nothing else. Use an entity of yours."
        )
    return ensure_of_entity(connection, entity_id, name, context.viewer.id, context.now)


def ensure_of_entity(connection: Connection, entity_id: int, name: str, user_id: int, now: float) -> int:
    """Return the row of an entity's project, made now if it is missing. The right was checked before."""
    check_name(name)
    project_id, _ = projects.ensure(connection, entity_id, name, user_id=user_id, now=now)
    return project_id


@resolvers.field("Query", "project")
async def project(
    _: object, info: Info, name: str | None = None, entityName: str | None = None, **_unused: object
) -> dict[str, Any] | None:
    """Return a project that the viewer may see; without an entity, one of the viewer's default entity."""
    context = info.context
    entity = entityName or context.viewer.entity
    row = await context.services.database.read(projects.find, entity, name) if name else None
    if row is None or not context.viewer.has_role(Role.RESTRICTED_VIEWER, row.entity_name, row.id):
        return None
    return node(row)


@resolvers.field("Entity", "project")
async def project_of_entity(parent: dict[str, Any], info: Info, name: str | None = None) -> dict[str, Any] | None:
    """Return a project of an entity, registries of the organization too."""
    return await project(parent, info, name, parent["name"])


@resolvers.field("Query", "model")
async def model(
    parent: object, info: Info, name: str | None = None, entityName: str | None = None
) -> dict[str, Any] | None:
    """The project under its old name."""
    return await project(parent, info, name, entityName)


@resolvers.field("Query", "models")
async def models(
    _: object,
    info: Info,
    entityName: str | None = None,
    first: int | None = None,
    after: str | None = None,
    **_unused: object,
) -> JsonObject:
    """List an entity's projects."""
    context = info.context
    entity = entityName or context.viewer.entity
    context.viewer.must_use(entity)
    page = Page.of(first, after)
    rows = await context.services.database.read(projects.listing, entity, page.after, page.limit + 1)
    return connection_of([(row.id, node(row)) for row in rows], page)
