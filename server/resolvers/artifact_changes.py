"""What happens to artifact versions later on: used, described, tagged, aliased, deleted."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server.automations import artifact_events
from server.context import Context
from server.errors import Conflict
from server.graphql import Info, Resolvers
from server.registry_roles import Role
from server.resolvers import artifact_shapes as shapes
from server.resolvers import runs as run_resolvers
from server.resolvers.artifact_uploads import check_alias, check_metadata, stored_ttl, tag_names
from server.storage import artifacts, collections, lineage, memberships, projects, tags
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
    added = tag_names(input.get("tagsToAdd"))
    removed = tag_names(input.get("tagsToDelete"))
    values: dict[str, Any] = {}
    if input.get("description") is not None:
        values["description"] = input["description"]
    if input.get("metadata") is not None:
        values["metadata"] = check_metadata(input["metadata"])
    if input.get("ttlDurationSeconds") is not None:
        values["ttl_seconds"] = stored_ttl(input["ttlDurationSeconds"])

    def work(connection: Connection) -> dict[str, Any]:
        row = shapes.changeable(connection, context, input["artifactID"])
        artifacts.change(connection, row.id, context.now, **values)
        artifact_events.tagged(connection, context, row.id, tags.add_to_artifact(connection, row.id, added))
        artifact_events.untagged(connection, context, row.id, tags.remove_from_artifact(connection, row.id, removed))
        return shapes.node(connection, row.id)

    return {"artifact": await context.services.database.write(work)}


@resolvers.field("Mutation", "deleteArtifact")
async def delete_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a version; one with aliases only if that is said."""
    context = info.context

    def work(connection: Connection) -> dict[str, Any]:
        row = shapes.visible(connection, context, input["artifactID"])
        context.viewer.must_use(row.entity_name)
        aliases = memberships.aliases_of_artifacts(connection, [row.id])[row.id]
        if aliases and not input["deleteAliases"]:
            names = ", ".join(alias.alias for alias in aliases)
            raise Conflict(f"The artifact has the aliases {names}. Delete it with delete_aliases=True.")
        artifacts.delete(connection, row.id, context.now)
        return shapes.node(connection, row.id)

    return {"artifact": await context.services.database.write(work)}


@resolvers.field("Mutation", "addAliases")
async def add_aliases(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Point aliases of a version's collection at it."""
    context = info.context

    def work(connection: Connection) -> None:
        row = shapes.alive(connection, context, input["artifactID"])
        for wanted in input["aliases"]:
            membership = _membership(connection, context, row, wanted)
            alias = check_alias(wanted["alias"])
            artifact_events.set_alias(connection, context, membership.collection_id, membership.id, alias)

    await context.services.database.write(work)
    return {"success": True}


@resolvers.field("Mutation", "deleteAliases")
async def delete_aliases(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take aliases from a version."""
    context = info.context

    def work(connection: Connection) -> None:
        row = shapes.alive(connection, context, input["artifactID"])
        for unwanted in input["aliases"]:
            memberships.remove_alias(connection, _membership(connection, context, row, unwanted).id, unwanted["alias"])

    await context.services.database.write(work)
    return {"success": True}


def _membership(connection: Connection, context: Context, row: AnyRow, address: dict[str, Any]) -> AnyRow:
    """Return a version's membership of the collection that an alias is addressed to; without an address, of its own."""
    name = address.get("artifactCollectionName") or row.sequence_name
    entity, project = address.get("entityName") or row.entity_name, address.get("projectName") or row.project_name
    place = projects.find(connection, entity, project)
    if place is not None and context.viewer.has_role(Role.RESTRICTED_VIEWER, entity, place.id):
        context.viewer.must_have_role(Role.MEMBER, entity, place.id, place.name)
        collection = collections.by_name(connection, place.id, name)
    else:
        collection = None
    found = memberships.in_collection(connection, row.id, collection.id) if collection else None
    if row.state == "PENDING":
        raise Conflict("The artifact is still being uploaded. Change its aliases when that is done.")
    if found is None:
        raise Conflict(f"The artifact is not a version of {entity}/{project}/{name}, so it can have no aliases there.")
    return found
