"""Versions linked to collections beside the one that they were logged to."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.automations import artifact_events
from server.context import Context
from server.errors import Conflict, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.registry_roles import Role
from server.resolvers import artifact_shapes as shapes
from server.resolvers import projects as project_resolvers
from server.resolvers.artifact_uploads import check_collection_name, wanted_aliases
from server.resolvers.paging import MAX_PAGE
from server.storage import artifacts, collections, memberships, projects, registries
from server.storage.rows import AnyRow

resolvers = Resolvers()


@resolvers.field("Mutation", "linkArtifact")
async def link(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a version one of a collection of links, too, which is made if it is missing. Doing so again changes nothing.

    Whoever may use the collection may then read the version. So only who may use the version itself may link it.
    """
    context = info.context
    aliases = [*wanted_aliases(input), memberships.LATEST]

    def work(connection: Connection) -> dict[str, Any]:
        row = _linkable(connection, context, input)
        collection_id = _target(connection, context, input, row)
        is_new = memberships.in_collection(connection, row.id, collection_id) is None
        membership_id = memberships.link(connection, collection_id, row.id, context.now)
        # `latest` is for what is new there, and not for what is linked once more.
        for alias in aliases if is_new else aliases[:-1]:
            artifact_events.set_alias(connection, context, collection_id, membership_id, alias)
        if is_new:
            artifact_events.linked(connection, context, collection_id, membership_id)
        collection, project = shapes.collection(connection, context, _wire_id(collection_id))
        membership = memberships.by_id(connection, membership_id)
        node = shapes.collection_node(collection, project)
        return shapes.membership_node(membership, node, shapes.node(connection, row.id))

    made = await context.services.database.write(work)
    return {"versionIndex": made["versionIndex"], "artifactMembership": made}


def _linkable(connection: Connection, context: Context, input: dict[str, Any]) -> AnyRow:
    if input.get("artifactID"):
        row = shapes.changeable(connection, context, input["artifactID"])
    else:
        known = artifacts.by_client_id(connection, input.get("clientID") or "")
        if known is None or not context.viewer.may_use(known.entity_name):
            raise NotFound("There is no such artifact.")
        row = known
    if row.state != "COMMITTED":
        raise Conflict("The artifact is still being uploaded. Link it when that is done.")
    return row


def _target(connection: Connection, context: Context, input: dict[str, Any], row: AnyRow) -> int:
    """Return the collection to link to; `Conflict` if it is for something else."""
    if input.get("artifactPortfolioID"):
        found, _ = shapes.collection(connection, context, input["artifactPortfolioID"])
        name, project_id = found.name, found.project_id
    else:
        name = check_collection_name(input.get("artifactPortfolioName") or "")
        entity, project = input.get("entityName"), input.get("projectName")
        if not entity or not project:
            raise RequestError("Say where to link to: an entity, a project and a collection's name.")
        project_id = _project(connection, context, entity, project, row.type_name)
    return collections.ensure(connection, project_id, collections.PORTFOLIO, row.type_name, name, context.now)


def _project(connection: Connection, context: Context, entity: str, name: str, type_name: str) -> int:
    """Return the project to link to, made now if it is missing; a registry has to be there, and to allow the type."""
    if entity != registries.organization(connection).name:
        return project_resolvers.ensure(connection, context, entity, name)
    row = projects.find(connection, entity, name)
    if row is None:
        raise NotFound(f"There is no project {entity}/{name}, or you may not see it.")
    context.viewer.must_have_role(Role.MEMBER, entity, row.id, row.name)
    if not row.any_artifact_type and collections.type_by_name(connection, row.id, type_name) is None:
        allowed = ", ".join(kind.name for kind in collections.types(connection, row.id, 0, MAX_PAGE))
        raise Conflict(f"Registry {row.name!r} takes no artifacts of type {type_name!r}. It takes: {allowed}.")
    return row.id


def _wire_id(collection_id: int) -> str:
    return ids.encode(collections.PORTFOLIO, collection_id)


@resolvers.field("Mutation", "unlinkArtifact")
async def unlink(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take a version out of a collection of links, whoever logged it."""
    context = info.context

    def work(connection: Connection) -> None:
        row = shapes.visible(connection, context, input["artifactID"])
        collection, _ = shapes.collection(connection, context, input["artifactPortfolioID"])
        found = memberships.in_collection(connection, row.id, collection.id)
        if found is None:
            raise Conflict(f"The artifact is not linked to {collection.name!r}.")
        if collection.kind != collections.PORTFOLIO:
            raise Conflict(f"The artifact was logged to {collection.name!r}. Delete it, if that is what you want.")
        artifact_events.unlinked(connection, context, collection.id, found.id)
        memberships.unlink(connection, found.id)
        memberships.point_latest(connection, collection.id)

    await context.services.database.write(work)
    return {"success": True}
