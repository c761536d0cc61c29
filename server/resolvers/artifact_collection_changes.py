"""What happens to collections of artifacts: renamed, described, tagged, given another type, deleted."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server.automations import artifact_events
from server.context import Context
from server.errors import Conflict, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.registry_roles import Role
from server.resolvers import artifact_shapes as shapes
from server.resolvers.artifact_uploads import check_collection_name, tag_names
from server.storage import artifacts, automations, collections, memberships, projects, tags
from server.storage.rows import AnyRow

resolvers = Resolvers()

MAX_TYPE_CHARS = 128


@resolvers.field("Mutation", "deleteArtifactSequence")
async def delete_sequence(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a collection with its versions."""
    context = info.context

    def work(connection: Connection) -> dict[str, Any]:
        row, project = shapes.collection(connection, context, input["artifactSequenceID"])
        artifacts.delete_of_collection(connection, row.id, context.now)
        return _delete(connection, context, row, project)

    return {"artifactCollection": await context.services.database.write(work)}


@resolvers.field("Mutation", "deleteArtifactPortfolio")
async def delete_portfolio(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a collection of links. The versions stay where they were logged."""
    context = info.context

    def work(connection: Connection) -> dict[str, Any]:
        row, project = shapes.collection(connection, context, input["artifactPortfolioID"])
        return _delete(connection, context, row, project)

    return {"artifactCollection": await context.services.database.write(work)}


def _delete(connection: Connection, context: Context, row: AnyRow, project: dict[str, Any]) -> dict[str, Any]:
    automations.remove_of_collection(connection, row.id)
    memberships.empty(connection, row.id)
    collections.change(connection, row.id, context.now, deleted_at=context.now)
    return {**shapes.collection_node(row, project), "state": "DELETED"}


@resolvers.field("Mutation", "updateArtifactSequence")
async def update_sequence(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Change a collection's name or description. Null leaves a value as it is."""
    return await _update(info.context, input["artifactSequenceID"], input)


@resolvers.field("Mutation", "updateArtifactPortfolio")
async def update_portfolio(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Change name or description of a collection of links. Null leaves a value as it is."""
    return await _update(info.context, input["artifactPortfolioID"], input)


async def _update(context: Context, wire_id: str, input: dict[str, Any]) -> JsonObject:
    values = {key: input[key] for key in ("name", "description") if input.get(key) is not None}

    def work(connection: Connection) -> dict[str, Any]:
        row, _ = shapes.collection(connection, context, wire_id)
        name = check_collection_name(values.get("name", row.name))
        if name != row.name and collections.by_name(connection, row.project_id, name):
            raise Conflict(f"The project has an artifact {name!r} already.")
        collections.change(connection, row.id, context.now, **values)
        return shapes.collection_node(*shapes.collection(connection, context, wire_id))

    return {"artifactCollection": await context.services.database.write(work)}


@resolvers.field("Mutation", "moveArtifactSequence")
async def move_sequence(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Give a collection another type, with all its versions."""
    context = info.context
    wire_id, wanted = input["artifactSequenceID"], input["destinationArtifactTypeName"]
    if not 0 < len(wanted) <= MAX_TYPE_CHARS:
        raise RequestError(f"{wanted!r} cannot be an artifact type: use 1 to {MAX_TYPE_CHARS} characters.")

    def work(connection: Connection) -> dict[str, Any]:
        row, _ = shapes.collection(connection, context, wire_id)
        type_id = collections.ensure_type(connection, row.project_id, wanted, context.now)
        collections.change(connection, row.id, context.now, type_id=type_id)
        return shapes.collection_node(*shapes.collection(connection, context, wire_id))

    return {"artifactCollection": await context.services.database.write(work)}


@resolvers.field("Mutation", "createArtifactCollectionTagAssignments")
async def add_tags(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Tag a collection; gives all tags that it then has."""
    context, names = info.context, tag_names(input["tags"])

    def work(connection: Connection) -> list[str]:
        row = _addressed(connection, context, input)
        added = tags.add_to_collection(connection, row.id, names)
        artifact_events.collection_tagged(connection, context, row.id, added)
        collections.change(connection, row.id, context.now)
        return tags.of_collections(connection, [row.id])[row.id]

    return {"tags": [shapes.tag_node(name) for name in await context.services.database.write(work)]}


@resolvers.field("Mutation", "deleteArtifactCollectionTagAssignments")
async def remove_tags(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take tags from a collection."""
    context, names = info.context, tag_names(input["tags"])

    def work(connection: Connection) -> None:
        row = _addressed(connection, context, input)
        removed = tags.remove_from_collection(connection, row.id, names)
        artifact_events.collection_untagged(connection, context, row.id, removed)
        collections.change(connection, row.id, context.now)

    await context.services.database.write(work)
    return {"success": True}


def _addressed(connection: Connection, context: Context, input: dict[str, Any]) -> AnyRow:
    entity, project, name = (input[key] for key in ("entityName", "projectName", "artifactCollectionName"))
    place = projects.find(connection, entity, project)
    found = collections.by_name(connection, place.id, name) if place else None
    if place is None or found is None or not context.viewer.has_role(Role.RESTRICTED_VIEWER, entity, place.id):
        raise NotFound(f"There is no artifact collection {entity}/{project}/{name}, or you may not see it.")
    context.viewer.must_have_role(Role.MEMBER, entity, place.id, place.name)
    return found
