"""Views of a project: reports, their drafts, and saved workspaces."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.context import Context
from server.errors import RequestError
from server.graphql import Info, Resolvers
from server.resolvers import projects as project_resolvers
from server.resolvers.paging import Page, connection_of
from server.storage import views
from server.storage.rows import AnyRow
from server.times import iso

resolvers = Resolvers()

REPORT = "runs"
"""The type of a report. Its drafts are `runs/draft`, a workspace is `project-view`."""
_COLUMNS = {"type": "kind", "name": "name", "displayName": "display_name", "description": "description", "spec": "spec"}
"""Input field -> column."""


def _node(row: AnyRow) -> dict[str, Any]:
    return {
        "__typename": "View",
        "id": ids.encode("View", row.id),
        "type": row.kind,
        "name": row.name,
        "displayName": row.display_name,
        "description": row.description,
        "spec": row.spec,
        "project": project_resolvers.node_beside(row),
        "user": {
            "id": ids.encode("User", row.created_by),
            "name": row.username,
            "username": row.username,
            "email": row.email,
        },
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "accessTokens": [],
    }


@resolvers.field("Query", "view")
async def view(_: object, info: Info, id: str) -> dict[str, Any]:
    """Return a view."""
    context = info.context
    return _node(await context.services.database.read(_visible, context, id))


@resolvers.field("Project", "allViews")
async def all_views(
    project: dict[str, Any],
    info: Info,
    viewType: str | None = None,
    viewName: str | None = None,
    userName: str | None = None,
    first: int | None = None,
    after: str | None = None,
) -> JsonObject:
    """List the project's views of a type, reports unless told otherwise."""
    page = Page.of(first, after)
    rows = await info.context.services.database.read(
        views.listing, project["row_id"], viewType or REPORT, viewName, userName, page.after, page.limit + 1
    )
    return connection_of([(row.id, _node(row)) for row in rows], page)


@resolvers.field("Mutation", "upsertView")
async def upsert_view(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a view, or change the one of that id. Null leaves a value as it is."""
    context = info.context
    values = {column: input[field] for field, column in _COLUMNS.items() if input.get(field) is not None}

    def work(connection: Connection) -> AnyRow:
        if input.get("id"):
            row = _visible(connection, context, input["id"])
            views.change(connection, row.id, context.now, **values)
            return views.by_id(connection, row.id)
        entity = input.get("entityName") or context.viewer.entity
        project_id = project_resolvers.ensure(connection, context, entity, input.get("projectName") or "")
        empty = {"kind": REPORT, "name": "", "display_name": "", "description": "", "spec": "{}"}
        made = views.create(connection, project_id, user_id=context.viewer.id, now=context.now, **{**empty, **values})
        return views.by_id(connection, made)

    return {"view": _node(await context.services.database.write(work)), "inserted": not input.get("id")}


@resolvers.field("Mutation", "deleteView")
async def delete_view(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a view. A draft is a view of its own, so there are none that have to go with it."""
    context = info.context

    def work(connection: Connection) -> None:
        views.remove(connection, _visible(connection, context, input["id"]).id)

    await context.services.database.write(work)
    return {"success": True, "pendingDrafts": 0}


@resolvers.field("Mutation", "createAccessToken")
async def create_access_token(_: object, _info: Info, input: dict[str, Any]) -> JsonObject:
    """Refuse a link that would open a report to whoever has it."""
    raise RequestError("A report cannot be shared by a link: this server has no page that a link could open.")


def _visible(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    row = views.by_id(connection, ids.decode("View", wire_id))
    context.viewer.must_see(row.entity_name, "view")
    return row
