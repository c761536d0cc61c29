"""Artifact types and collections as they are read, and the versions of a collection."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import artifact_filters
from server.context import Context
from server.errors import NotFound, RequestError
from server.graphql import Info, Resolvers
from server.registry_roles import Role
from server.resolvers import artifact_shapes as shapes
from server.resolvers.artifacts import membership_by_version
from server.resolvers.batches import Batch
from server.resolvers.paging import MAX_PAGE, OrderedPage, Page, connection_of
from server.storage import artifacts, collections, memberships, places, tags

resolvers = Resolvers()

VERSION_ORDERS = ("version_index", "versionIndex", "created_at", "createdAt")
"""All the same: versions are numbered as they become final."""

Version: TypeAlias = tuple[int, dict[str, Any]]
"""A version's number in a collection, and its node."""


@resolvers.field("Project", "artifactType")
async def artifact_type(project: dict[str, Any], info: Info, name: str) -> dict[str, Any] | None:
    """Return an artifact type of a project, or null."""
    row = await info.context.services.database.read(collections.type_by_name, project["row_id"], name)
    return shapes.type_node(row.id, row.name, row.created_at, project, row.description) if row else None


@resolvers.field("Project", "artifactTypes")
async def artifact_types(
    project: dict[str, Any], info: Info, after: str | None = None, first: int | None = None, **_unused: object
) -> JsonObject:
    """List a project's artifact types."""
    page = Page.of(first, after)
    rows = await info.context.services.database.read(collections.types, project["row_id"], page.after, page.limit + 1)
    found = [(row.id, shapes.type_node(row.id, row.name, row.created_at, project, row.description)) for row in rows]
    return connection_of(found, page)


@resolvers.field("Project", "artifactCollection")
async def project_collection(project: dict[str, Any], info: Info, name: str) -> dict[str, Any] | None:
    """Return a collection of a project, or null."""
    row = await info.context.services.database.read(collections.by_name, project["row_id"], name)
    return shapes.collection_node(row, project) if row else None


@resolvers.field("ArtifactType", "artifactCollection")
async def type_collection(parent: dict[str, Any], info: Info, name: str) -> dict[str, Any] | None:
    """Return a collection of a type, or null."""
    row = await info.context.services.database.read(collections.by_name, parent["project"]["row_id"], name)
    return shapes.collection_node(row, parent["project"]) if row and row.type_id == parent["row_id"] else None


@resolvers.field("Query", "artifactCollection")
async def collection_by_id(_: object, info: Info, id: str) -> dict[str, Any] | None:
    """Return a collection by id, or null."""

    def work(connection: Connection) -> dict[str, Any] | None:
        try:
            return shapes.collection_node(*shapes.collection(connection, info.context, id, Role.RESTRICTED_VIEWER))
        except NotFound:
            return None

    return await info.context.services.database.read(work)


@resolvers.field("Project", "artifactCollections")
async def project_collections(project: dict[str, Any], info: Info, **arguments: Any) -> JsonObject:
    """List a project's collections."""
    return await _collections(project, None, info, **arguments)


@resolvers.field("ArtifactType", "artifactCollections")
async def type_collections(parent: dict[str, Any], info: Info, **arguments: Any) -> JsonObject:
    """List a type's collections."""
    return await _collections(parent["project"], parent["row_id"], info, **arguments)


async def _collections(
    project: dict[str, Any],
    type_id: int | None,
    info: Info,
    after: str | None = None,
    first: int | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> JsonObject:
    wanted, ordered = artifact_filters.of_collections(filters), artifact_filters.order_of_collections(order)
    # The client's list of jobs asks without a page size, and does not ask again.
    page = OrderedPage.of(first, after, [ordered], default=MAX_PAGE)

    def work(connection: Connection) -> JsonObject:
        where = (project["row_id"], type_id, wanted)
        rows = collections.listing(connection, *where, ordered, page.behind, page.limit + 1)
        versions = _versions_of(info.context, [row.id for row in rows])
        batches = {"versions": versions, "tagged": _tags_of(info.context, [row.id for row in rows])}
        nodes = [{**shapes.collection_node(row, project), **batches} for row in rows]
        found = [(places.place_of(row, [ordered]), node) for row, node in zip(rows, nodes, strict=True)]
        return connection_of(found, page, totalCount=collections.count(connection, *where))

    return await info.context.services.database.read(work)


def _versions_of(context: Context, collection_ids: list[int]) -> Batch[list[Version]]:
    """Return all versions of collections that are listed together, to be read at once when they are asked for."""

    def work(connection: Connection) -> Mapping[int, list[Version]]:
        found = artifacts.in_collections(connection, collection_ids)
        shaped = iter(shapes.nodes(connection, [row for rows in found.values() for row in rows]))
        return {
            collection_id: [(row.listed_index, next(shaped)) for row in rows] for collection_id, rows in found.items()
        }

    return Batch(lambda: context.services.database.read(work))


def _tags_of(context: Context, collection_ids: list[int]) -> Batch[list[str]]:
    """Return the tags of collections that are listed together, to be read at once when they are asked for."""
    return Batch(lambda: context.services.database.read(tags.of_collections, collection_ids))


async def collection_tags(parent: dict[str, Any], info: Info) -> JsonObject:
    """List a collection's tags."""
    batch: Batch[list[str]] = parent.get("tagged") or _tags_of(info.context, [parent["row_id"]])
    return {"edges": [{"node": shapes.tag_node(name)} for name in await batch.get(parent["row_id"]) or []]}


async def collection_artifacts(
    parent: dict[str, Any],
    info: Info,
    after: str | None = None,
    first: int | None = None,
    order: str | None = None,
    filters: str | None = None,
) -> JsonObject:
    """List a collection's versions, the newest first unless another order is asked for."""
    if _filter(filters) not in ({}, {"state": "COMMITTED"}):
        raise RequestError("Artifacts cannot be filtered on the server yet. Leave the filters out.")
    if (order or "-version_index").lstrip("+-") not in VERSION_ORDERS:
        raise RequestError(f"Artifacts cannot be ordered by {order!r}. Use one of: {', '.join(VERSION_ORDERS)}.")
    newest_first = (order or "-").startswith("-")
    if first is None and after is None and newest_first and "versions" in parent:
        batch: Batch[list[Version]] = parent["versions"]
        versions = await batch.get(parent["row_id"]) or []
        return _version_page(parent, versions, Page(0, len(versions)), len(versions))
    page = Page.of(first, after)

    def work(connection: Connection) -> JsonObject:
        # Positions are version indexes from 1 on, because a page after 0 is the first one.
        behind = page.after - 1 if page.after else None
        row_id, limit = parent["row_id"], page.limit + 1
        rows = artifacts.in_collection(connection, row_id, newest_first=newest_first, after=behind, limit=limit)
        versions = [(row.listed_index, node) for row, node in zip(rows, shapes.nodes(connection, rows), strict=True)]
        return _version_page(parent, versions, page, artifacts.count_in_collection(connection, row_id))

    return await info.context.services.database.read(work)


def _version_page(collection: dict[str, Any], versions: list[Version], page: Page, total: int) -> JsonObject:
    if collection["__typename"] == collections.PORTFOLIO:
        versions = [(index, shapes.linked_node(node, collection, index)) for index, node in versions]
    listed = connection_of([(index + 1, node) for index, node in versions], page, totalCount=total)
    for edge, (index, _) in zip(listed["edges"], versions, strict=False):  # one more than is shown may be there
        edge["version"] = f"v{index}"
    return listed


def _filter(text: str | None) -> object:
    try:
        return json.loads(text or "null") or {}
    except ValueError as error:
        raise RequestError(f"The filter is not JSON: {error}.") from error


async def collection_aliases(
    parent: dict[str, Any], info: Info, after: str | None = None, first: int | None = None
) -> JsonObject:
    """List a collection's aliases."""
    page = Page.of(first, after)
    rows = await info.context.services.database.read(
        memberships.aliases_in_collection, parent["row_id"], page.after, page.limit + 1
    )
    return connection_of([(row.id, shapes.alias_node(row)) for row in rows], page)


async def collection_version(parent: dict[str, Any], info: Info, aliasName: str) -> dict[str, Any] | None:
    """Return a collection's version by alias or `vN`."""
    return await info.context.services.database.read(membership_by_version, parent, aliasName)


for _kind in ("ArtifactSequence", "ArtifactPortfolio"):
    resolvers.field(_kind, "aliases")(collection_aliases)
    resolvers.field(_kind, "artifacts")(collection_artifacts)
    resolvers.field(_kind, "artifactMembership")(collection_version)
    resolvers.field(_kind, "tags")(collection_tags)


@resolvers.field("ArtifactSequence", "latestArtifact")
async def latest_artifact(parent: dict[str, Any], info: Info) -> dict[str, Any] | None:
    """Return a collection's newest committed version."""

    def work(connection: Connection) -> dict[str, Any] | None:
        row = artifacts.latest(connection, parent["row_id"])
        return shapes.nodes(connection, [row])[0] if row else None

    return await info.context.services.database.read(work)
