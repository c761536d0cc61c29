"""Artifact versions as they are read: by id, by name, by run; where they are, and who made and used them."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.errors import NotFound
from server.graphql import Info, Resolvers
from server.resolvers import artifact_shapes as shapes
from server.resolvers import projects as project_resolvers
from server.resolvers import runs as run_resolvers
from server.resolvers.paging import MAX_PAGE, Page, connection_of
from server.storage import artifacts, collections, lineage, memberships, projects, runs

resolvers = Resolvers()


@resolvers.field("Query", "artifact")
async def artifact(_: object, info: Info, id: str) -> dict[str, Any] | None:
    """Return a version by id, deleted ones too: their state tells."""

    def work(connection: Connection) -> dict[str, Any] | None:
        try:
            return shapes.nodes(connection, [shapes.visible(connection, info.context, id)])[0]
        except NotFound:
            return None

    return await info.context.services.database.read(work)


@resolvers.field("Query", "clientIDMapping")
async def client_id_mapping(_: object, info: Info, clientID: str) -> JsonObject | None:
    """Return the version that a client knows under an id of its own."""
    row = await info.context.services.database.read(artifacts.by_client_id, clientID)
    if row is None or row.state == "DELETED" or not info.context.viewer.may_use(row.entity_name):
        return None
    return {"serverID": ids.encode("Artifact", row.id)}


@resolvers.field("Project", "artifact")
async def project_artifact(project: dict[str, Any], info: Info, name: str, **_unused: object) -> dict[str, Any] | None:
    """Return a version by `collection:alias`."""
    membership = await collection_membership(project, info, name)
    return membership["artifact"] if membership else None


@resolvers.field("Project", "artifactCollectionMembership")
async def collection_membership(project: dict[str, Any], info: Info, name: str) -> dict[str, Any] | None:
    """Return a version of a collection by `collection:alias` or `collection:vN`."""
    collection, _, version = name.partition(":")

    def work(connection: Connection) -> dict[str, Any] | None:
        row = collections.by_name(connection, project["row_id"], collection)
        if row is None:
            return None
        return membership_by_version(connection, shapes.collection_node(row, project), version or memberships.LATEST)

    return await info.context.services.database.read(work)


def membership_by_version(connection: Connection, collection: dict[str, Any], version: str) -> dict[str, Any] | None:
    """Return a collection's version by alias or `vN`, or null if it was deleted."""
    row = memberships.by_version(connection, collection["row_id"], version)
    found = artifacts.by_id(connection, row.artifact_id) if row else None
    if row is None or found is None or found.state == "DELETED":
        return None
    return shapes.membership_node(row, collection, shapes.nodes(connection, [found])[0])


@resolvers.field("Artifact", "artifactMemberships")
async def artifact_memberships(parent: dict[str, Any], info: Info, **_unused: object) -> JsonObject:
    """List where a version is: its own collection first."""

    def work(connection: Connection) -> list[tuple[int, dict[str, Any]]]:
        found: list[tuple[int, dict[str, Any]]] = []
        for row in memberships.of_artifact(connection, parent["row_id"]):
            collection = collections.by_id(connection, row.collection_id)
            project = projects.by_id(connection, collection.project_id) if collection else None
            if collection is not None and project is not None:
                shaped = shapes.collection_node(collection, project_resolvers.node(project))
                found.append((row.id, shapes.membership_node(row, shaped, parent)))
        return found

    return connection_of(await info.context.services.database.read(work), Page(0, MAX_PAGE))


@resolvers.field("Artifact", "createdBy")
async def created_by(parent: dict[str, Any], info: Info) -> dict[str, Any] | None:
    """Return the run that logged a version; null if it was deleted.

    Never the user, although the union has him: client 0.25 breaks on that. See `creator`.
    """
    run_id, context = parent["created_by_run"], info.context
    row = await context.services.database.read(runs.by_id, run_id) if run_id is not None else None
    if row is None or row.deleted_at is not None or not context.viewer.may_use(row.entity_name):
        return None
    return run_resolvers.node(row, context.now)


@resolvers.field("Artifact", "usedBy")
async def used_by(parent: dict[str, Any], info: Info, **_unused: object) -> JsonObject:
    """List the runs that used a version, as far as the viewer may see them."""
    context = info.context

    def work(connection: Connection) -> list[tuple[int, Any]]:
        artifact_id, found = parent["row_id"], list[tuple[int, Any]]()
        for project in lineage.projects_of_users(connection, artifact_id):
            if context.viewer.may_use(project.entity_name):
                rows = runs.listing(connection, project.id, lineage.uses(artifact_id), runs.Order(), None, MAX_PAGE)
                found += [(row.id, run_resolvers.node(row, context.now)) for row, _ in rows]
        return sorted(found, key=lambda each: each[0])

    return connection_of(await context.services.database.read(work), Page(0, MAX_PAGE))


@resolvers.field("Run", "outputArtifacts")
async def output_artifacts(
    run: dict[str, Any], info: Info, after: str | None = None, first: int | None = None
) -> JsonObject:
    """List what a run logged."""
    return await _of_run(run, info, "output", Page.of(first, after))


@resolvers.field("Run", "inputArtifacts")
async def input_artifacts(
    run: dict[str, Any], info: Info, after: str | None = None, first: int | None = None
) -> JsonObject:
    """List what a run used."""
    return await _of_run(run, info, "input", Page.of(first, after))


async def _of_run(run: dict[str, Any], info: Info, role: str, page: Page) -> JsonObject:
    """List versions as far as the viewer may see them: somebody else's run may have used what is not open to all."""
    viewer = info.context.viewer
    visible = None if viewer.admin else viewer.entities

    def work(connection: Connection) -> JsonObject:
        rows = lineage.of_run(connection, run["row_id"], role, visible, page.after, page.limit + 1)
        found = [(each["row_id"], each) for each in shapes.nodes(connection, rows)]
        return connection_of(found, page, totalCount=lineage.count_of_run(connection, run["row_id"], role, visible))

    return await info.context.services.database.read(work)
