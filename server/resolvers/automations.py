"""Automations as they are read. They are shown to who may change them: members of an entity, admins of a registry."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import filters, ids
from server.automations import events
from server.automations.actions import ActionType
from server.automations.event_types import EventType
from server.context import Context
from server.filters import TextField, TimeField
from server.graphql import Info, Resolvers
from server.registry_roles import Role
from server.resolvers import artifact_shapes as shapes
from server.resolvers import integrations as integration_resolvers
from server.resolvers import projects as project_resolvers
from server.resolvers.batches import Batch
from server.resolvers.paging import Page, connection_of
from server.resolvers.users import entity_node
from server.storage import automations, collections, integrations, projects, users
from server.storage.rows import AnyRow
from server.storage.tables import automations as table
from server.times import iso

resolvers = Resolvers()

_FIELDS = {
    "name": TextField(table.c.name),
    "description": TextField(table.c.description),
    "created_at": TimeField(table.c.created_at),
    "updated_at": TimeField(table.c.updated_at),
}


def node(connection: Connection, row: AnyRow) -> JsonObject:
    """Shape an automation."""
    return {
        "__typename": "Trigger",
        "id": ids.encode("Trigger", row.id),
        "name": row.name,
        "description": row.description,
        "enabled": row.enabled,
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "scope": _scope(connection, row),
        "triggeringCondition": {
            "__typename": "FilterEventTriggeringCondition",
            "eventType": row.event_type,
            "filter": events.shown_filter(EventType(row.event_type), row.filter),
        },
        "triggeredAction": _action(connection, row),
    }


def _scope(connection: Connection, row: AnyRow) -> JsonObject:
    if row.collection_id is not None:
        collection = collections.by_ids(connection, [row.collection_id])[0]
        project = projects.by_id(connection, collection.project_id)
        assert project is not None
        return shapes.collection_node(collection, project_resolvers.node(project))
    if row.project_id is not None:
        project = projects.by_id(connection, row.project_id)
        assert project is not None
        return project_resolvers.node(project)
    entity = users.entity_by_name(connection, row.entity_name)
    assert entity is not None
    return entity_node(entity)


def _action(connection: Connection, row: AnyRow) -> JsonObject:
    if row.integration_id is None:
        return {"__typename": "NoOpTriggeredAction", "noOp": True}
    content: Mapping[str, Any] = json.loads(row.action)
    integration = integrations.by_id(connection, row.integration_id)
    assert integration is not None
    shown = {"integration": integration_resolvers.node(integration)}
    if row.action_type == ActionType.WEBHOOK:
        return {"__typename": "GenericWebhookTriggeredAction", **shown, "requestPayload": content["payload"]}
    return {"__typename": "NotificationTriggeredAction", **shown, **content}


@resolvers.field("Entity", "triggers")
async def of_entity(
    entity: dict[str, Any],
    info: Info,
    filters: str | None = None,
    after: str | None = None,
    first: int | None = None,
    order: str | None = None,
) -> JsonObject:
    """List an entity's automations, oldest first, whatever order is asked for: no client asks for one."""
    context, page = info.context, Page.of(first, after)
    within = None if context.viewer.may_use(entity["name"]) else _administered(context)

    def work(connection: Connection) -> list[tuple[int, JsonObject]]:
        wanted = _condition(filters)
        rows = automations.listing(connection, entity["row_id"], within, wanted, page.after, page.limit + 1)
        return [(row.id, node(connection, row)) for row in rows]

    return connection_of(await context.services.database.read(work), page)


def _condition(text: str | None) -> Any:
    return filters.condition(text, filters.among(_FIELDS))


def _administered(context: Context) -> Sequence[int]:
    """Return the registries that the viewer is an admin of."""
    return [project_id for project_id, role in context.viewer.registries.items() if role is Role.ADMIN]


@resolvers.field("Organization", "triggers")
async def of_organization(organization: dict[str, Any], info: Info, **arguments: Any) -> JsonObject:
    """List the automations of the organization's registries."""
    return await of_entity(organization["orgEntity"], info, **arguments)


@resolvers.field("Project", "triggers")
async def of_project(project: dict[str, Any], info: Info) -> list[JsonObject]:
    """List the automations of a project and of the collections in it."""
    batch: Batch[list[JsonObject]] = project.get("triggers_of") or of_projects(info.context, [project["row_id"]])
    return await batch.get(project["row_id"]) or []


def of_projects(context: Context, project_ids: Sequence[int]) -> Batch[list[JsonObject]]:
    """Return the automations of projects that are listed together, to be read at once when they are asked for."""

    def work(connection: Connection) -> Mapping[int, list[JsonObject]]:
        found: dict[int, list[JsonObject]] = {}
        for row in automations.of_projects(connection, project_ids):
            if context.viewer.has_role(Role.ADMIN, row.entity_name, row.place_id):
                found.setdefault(row.place_id, []).append(node(connection, row))
        return found

    return Batch(lambda: context.services.database.read(work))
