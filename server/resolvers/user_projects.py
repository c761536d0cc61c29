"""The projects of a user. They are not in `projects`, as they come with their automations, which depend on it."""

from typing import Any

from protocol.json_types import JsonObject
from server import ids
from server.graphql import Info, Resolvers
from server.resolvers import automations
from server.resolvers import projects as project_resolvers
from server.resolvers.paging import Page, connection_of
from server.storage import projects

resolvers = Resolvers()


@resolvers.field("User", "projects")
async def projects_of_viewer(
    user: dict[str, Any], info: Info, after: str | None = None, first: int | None = None
) -> JsonObject:
    """List the projects that the viewer may see; of another user, none."""
    context, page = info.context, Page.of(first, after)
    viewer = context.viewer
    if user["id"] != ids.encode("User", viewer.id):
        return connection_of([], page)
    rows = await context.services.database.read(
        projects.page, viewer.entities, list(viewer.registries), page.after, page.limit + 1
    )
    triggers = automations.of_projects(context, [row.id for row in rows])
    found = [(row.id, {**project_resolvers.node(row), "triggers_of": triggers}) for row in rows]
    return connection_of(found, page)
