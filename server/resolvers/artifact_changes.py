"""What happens to artifact versions and collections later on: used, described, aliased, deleted."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server.errors import Conflict, RequestError
from server.graphql import Info, Resolvers
from server.resolvers import artifact_shapes as shapes
from server.resolvers import runs as run_resolvers
from server.resolvers.artifact_uploads import check_alias, check_collection_name, check_metadata, stored_ttl
from server.storage import artifacts, collections, lineage, memberships, projects
from server.storage.rows import AnyRow

resolvers = Resolvers()


@resolvers.field("Mutation", "useArtifact")
async def use_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Note that a run uses a version."""
    context = info.context
    context.viewer.must_use(input["entityName"])

    def work(connection: Connection) -> dict[str, Any]:
        row = shapes.usable(connection, context, input["artifactID"])
        run = run_resolvers.find(connection, context, input["entityName"], input["projectName"], input["runName"])
        lineage.record_input(connection, run.id, row.id, context.now, input.get("usedAs"))
        return shapes.nodes(connection, [row])[0]

    return {"artifact": await context.services.database.write(work)}


@resolvers.field("Mutation", "updateArtifact")
async def update_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Change description, metadata (as a whole) or time to live. Null leaves a value as it is."""
    context = info.context
    if input.get("tagsToAdd") or input.get("tagsToDelete"):
        raise RequestError("Tags of artifacts are not supported yet.")
    values: dict[str, Any] = {}
    if input.get("description") is not None:
        values["description"] = input["description"]
    if input.get("metadata") is not None:
        values["metadata"] = check_metadata(input["metadata"])
    if input.get("ttlDurationSeconds") is not None:
        values["ttl_seconds"] = stored_ttl(input["ttlDurationSeconds"])

    def work(connection: Connection) -> dict[str, Any]:
        row = shapes.usable(connection, context, input["artifactID"])
        artifacts.change(connection, row.id, context.now, **values)
        return shapes.node(connection, row.id)

    return {"artifact": await context.services.database.write(work)}


@resolvers.field("Mutation", "deleteArtifact")
async def delete_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a version; one with aliases only if that is said."""
    context = info.context

    def work(connection: Connection) -> dict[str, Any]:
        row = shapes.visible(connection, context, input["artifactID"])
        aliases = memberships.aliases_of_artifacts(connection, [row.id])[row.id]
        if aliases and not input["deleteAliases"]:
            names = ", ".join(alias.alias for alias in aliases)
            raise Conflict(f"The artifact has the aliases {names}. Delete it with delete_aliases=True.")
        artifacts.change(connection, row.id, context.now, state="DELETED")
        memberships.remove_aliases(connection, row.id)
        return shapes.node(connection, row.id)

    return {"artifact": await context.services.database.write(work)}


@resolvers.field("Mutation", "addAliases")
async def add_aliases(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Point aliases of a version's collection at it."""
    context = info.context

    def work(connection: Connection) -> None:
        row = shapes.usable(connection, context, input["artifactID"])
        for wanted in input["aliases"]:
            membership = _membership(connection, row, wanted)
            memberships.set_alias(connection, membership.collection_id, membership.id, check_alias(wanted["alias"]))

    await context.services.database.write(work)
    return {"success": True}


@resolvers.field("Mutation", "deleteAliases")
async def delete_aliases(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take aliases from a version."""
    context = info.context

    def work(connection: Connection) -> None:
        row = shapes.usable(connection, context, input["artifactID"])
        for unwanted in input["aliases"]:
            memberships.remove_alias(connection, _membership(connection, row, unwanted).id, unwanted["alias"])

    await context.services.database.write(work)
    return {"success": True}


def _membership(connection: Connection, row: AnyRow, address: dict[str, Any]) -> AnyRow:
    """Return a version's membership of the collection that an alias is addressed to; without an address, of its own."""
    name = address.get("artifactCollectionName") or row.sequence_name
    entity, project = address.get("entityName") or row.entity_name, address.get("projectName") or row.project_name
    place = projects.find(connection, entity, project)
    collection = collections.by_name(connection, place.id, name) if place else None
    found = memberships.in_collection(connection, row.id, collection.id) if collection else None
    if row.state == "PENDING":
        raise Conflict("The artifact is still being uploaded. Change its aliases when that is done.")
    if found is None:
        raise Conflict(f"The artifact is not a version of {entity}/{project}/{name}, so it can have no aliases there.")
    return found


@resolvers.field("Mutation", "deleteArtifactSequence")
async def delete_sequence(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a collection with its versions."""
    context = info.context

    def work(connection: Connection) -> dict[str, Any]:
        row, project = shapes.collection(connection, context, input["artifactSequenceID"])
        artifacts.delete_of_collection(connection, row.id, context.now)
        memberships.empty(connection, row.id)
        collections.change(connection, row.id, context.now, deleted_at=context.now)
        return {**shapes.collection_node(row, project), "state": "DELETED"}

    return {"artifactCollection": await context.services.database.write(work)}


@resolvers.field("Mutation", "updateArtifactSequence")
async def update_sequence(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Change a collection's name or description. Null leaves a value as it is."""
    context = info.context
    values = {key: input[key] for key in ("name", "description") if input.get(key) is not None}

    def work(connection: Connection) -> dict[str, Any]:
        row, project = shapes.collection(connection, context, input["artifactSequenceID"])
        name = check_collection_name(values.get("name", row.name))
        if name != row.name and collections.by_name(connection, row.project_id, name):
            raise Conflict(f"The project has an artifact {name!r} already.")
        collections.change(connection, row.id, context.now, **values)
        changed, _ = shapes.collection(connection, context, input["artifactSequenceID"])
        return shapes.collection_node(changed, project)

    return {"artifactCollection": await context.services.database.write(work)}
