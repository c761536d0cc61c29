"""What the organization's registries hold, searched through all of them at once. Its position is how far a page is."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_

from protocol.json_types import JsonObject
from server import artifact_filters
from server.context import Context
from server.graphql import Info, Resolvers
from server.resolvers import artifact_shapes as shapes
from server.resolvers import projects as project_resolvers
from server.resolvers.paging import OrderedPage, Page, connection_of
from server.storage import artifacts, collections, projects, registry_search
from server.storage.registry_search import Scope
from server.storage.rows import AnyRow

resolvers = Resolvers()

KINDS = {"PORTFOLIO": collections.PORTFOLIO, "SEQUENCE": collections.SEQUENCE}


def _scope(entity: dict[str, Any], context: Context) -> Scope:
    viewer = context.viewer
    return Scope(entity["row_id"], None if viewer.may_use(entity["name"]) else viewer.registries.keys())


@resolvers.field("Entity", "projects")
async def registries(
    entity: dict[str, Any],
    info: Info,
    filters: str | None = None,
    order: str | None = None,
    after: str | None = None,
    first: int | None = None,
) -> JsonObject:
    """List registries."""
    wanted, ordered = artifact_filters.of_registries(filters), artifact_filters.order_of_registries(order)
    page, scope = OrderedPage.of(first, after, [ordered]), _scope(entity, info.context)

    def work(connection: Connection) -> JsonObject:
        found = registry_search.find_registries(connection, scope, wanted, ordered, page.behind, page.limit + 1)
        nodes = _projects(connection, [place[-1] for place in found])
        return connection_of([(place, nodes[place[-1]]) for place in found], page)

    return await info.context.services.database.read(work)


@resolvers.field("Entity", "artifactCollections")
async def registry_collections(
    entity: dict[str, Any],
    info: Info,
    projectFilters: str | None = None,
    filters: str | None = None,
    collectionTypes: list[str] | None = None,
    order: str | None = None,
    after: str | None = None,
    first: int | None = None,
) -> JsonObject:
    """List collections of registries."""
    wanted = _both(artifact_filters.of_registries(projectFilters), artifact_filters.of_collections(filters))
    ordered = artifact_filters.order_of_collections(order)
    page, scope = OrderedPage.of(first, after, [ordered]), _scope(entity, info.context)
    kinds = [KINDS[kind] for kind in collectionTypes or KINDS]

    def work(connection: Connection) -> JsonObject:
        limit = page.limit + 1
        found = registry_search.find_collections(connection, scope, wanted, kinds, ordered, page.behind, limit)
        nodes = _collections(connection, [place[-1] for place in found])
        total = registry_search.count_collections(connection, scope, wanted, kinds)
        return connection_of([(place, nodes[place[-1]]) for place in found], page, totalCount=total)

    return await info.context.services.database.read(work)


@resolvers.field("Entity", "artifactMemberships")
async def registry_versions(
    entity: dict[str, Any],
    info: Info,
    projectFilters: str | None = None,
    collectionFilters: str | None = None,
    filters: str | None = None,
    after: str | None = None,
    first: int | None = None,
    **_unused: object,
) -> JsonObject:
    """List versions in collections of registries, in the order of their linking."""
    page, scope = Page.of(first, after), _scope(entity, info.context)
    places = _both(artifact_filters.of_registries(projectFilters), artifact_filters.of_collections(collectionFilters))
    wanted = artifact_filters.of_versions(filters)

    def work(connection: Connection) -> JsonObject:
        rows = registry_search.find_memberships(connection, scope, places, wanted, page.after, page.limit + 1)
        found = [(row.id, node) for row, node in zip(rows, _memberships(connection, rows), strict=True)]
        return connection_of(found, page)

    return await info.context.services.database.read(work)


def _both(one: registry_search.Condition, other: registry_search.Condition) -> registry_search.Condition:
    given = [condition for condition in (one, other) if condition is not None]
    return and_(*given) if given else None


def _projects(connection: Connection, project_ids: Sequence[int]) -> Mapping[int, dict[str, Any]]:
    return {row.id: project_resolvers.node(row) for row in projects.by_ids(connection, project_ids)}


def _collections(connection: Connection, collection_ids: Sequence[int]) -> Mapping[int, dict[str, Any]]:
    rows = collections.by_ids(connection, collection_ids)
    places = _projects(connection, [row.project_id for row in rows])
    return {row.id: shapes.collection_node(row, places[row.project_id]) for row in rows}


def _memberships(connection: Connection, rows: Sequence[AnyRow]) -> list[dict[str, Any]]:
    versions = artifacts.by_ids(connection, [row.artifact_id for row in rows])
    nodes = {row.id: node for row, node in zip(versions, shapes.nodes(connection, versions), strict=True)}
    places = _collections(connection, [row.collection_id for row in rows])
    return [shapes.membership_node(row, places[row.collection_id], nodes[row.artifact_id]) for row in rows]
