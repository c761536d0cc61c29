"""Automations made, changed and deleted: by members of an entity, and in a registry by its admins."""

import json
from typing import Any, NamedTuple

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import filters, ids
from server.automations import actions, events, rights
from server.automations.actions import Action, ActionType
from server.automations.event_types import RUN_EVENTS, EventType
from server.context import Context
from server.errors import NameTaken, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.registry_roles import Role
from server.resolvers import artifact_shapes as shapes
from server.resolvers.automations import node
from server.resolvers.integrations import usable
from server.storage import automations, integrations, projects, registries, runs, users, watched_runs
from server.storage.rows import AnyRow

resolvers = Resolvers()

MAX_NAME_CHARS = 255
_KINDS = {ActionType.WEBHOOK: integrations.WEBHOOK, ActionType.NOTIFICATION: integrations.SLACK}
"""Which integrations an action can be sent to."""


class Place(NamedTuple):
    """Where an automation acts, by row numbers."""

    entity_id: int
    project_id: int | None
    collection_id: int | None


@resolvers.field("Mutation", "createFilterTrigger")
async def create(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make an automation."""
    context = info.context

    def work(connection: Connection) -> JsonObject:
        place = _place(connection, context, input["scopeType"], input["scopeID"])
        values = {
            "name": _name(connection, place.entity_id, input["name"]),
            "description": input.get("description"),
            "enabled": input["enabled"],
            **_event(connection, place, input["triggeringEventType"], input["eventFilter"]),
            **_action(connection, context, actions.read(input["triggeredActionType"], input["triggeredActionConfig"])),
        }
        _watch(connection, context, place, values)
        made = automations.create(
            connection, **place._asdict(), **values, created_by=context.viewer.id, created_at=context.now
        )
        return _node(connection, made)

    return {"trigger": await context.services.database.write(work)}


@resolvers.field("Mutation", "updateFilterTrigger")
async def update(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Change an automation. Null leaves a value as it is."""
    context = info.context

    def work(connection: Connection) -> JsonObject:
        row = _changeable(connection, context, input["id"])
        place = Place(row.entity_id, row.project_id, row.collection_id)
        if input.get("scopeID") is not None:
            place = _place(connection, context, input.get("scopeType") or "", input["scopeID"])
        values = {key: input[key] for key in ("description", "enabled") if input.get(key) is not None}
        values["name"] = _name(connection, place.entity_id, input.get("name") or row.name, row.id)
        event = input.get("triggeringEventType") or row.event_type
        values |= _event(connection, place, event, input.get("eventFilter") or row.filter)
        if input.get("triggeredActionConfig") is not None:
            kind = input.get("triggeredActionType") or row.action_type
            values |= _action(connection, context, actions.read(kind, input["triggeredActionConfig"]))
            values["created_by"] = context.viewer.id
        _watch(connection, context, place, {"enabled": row.enabled, **values})
        automations.change(connection, row.id, **place._asdict(), **values, updated_at=context.now)
        return _node(connection, row.id)

    return {"trigger": await context.services.database.write(work)}


@resolvers.field("Mutation", "deleteTrigger")
async def delete(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete an automation. What it has on its way is not sent any more."""
    context = info.context

    def work(connection: Connection) -> None:
        automations.remove(connection, _changeable(connection, context, input["triggerID"]).id)

    await context.services.database.write(work)
    return {"success": True}


def _changeable(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    row = automations.by_id(connection, ids.decode("Trigger", wire_id))
    if row is None or not rights.may_change(connection, context.viewer, row):
        raise NotFound("There is no such automation.")
    return row


def _place(connection: Connection, context: Context, kind: str, wire_id: str) -> Place:
    """Return where an automation is to act; `NotFound` or `Forbidden` if the viewer may have none there."""
    if kind == "ARTIFACT_COLLECTION":
        collection, project = shapes.collection(connection, context, wire_id, Role.ADMIN)
        return Place(project["entity_id"], None, collection.id)
    if kind == "PROJECT":
        row = projects.by_id(connection, ids.decode("Project", wire_id))
        if row is None or not context.viewer.has_role(Role.RESTRICTED_VIEWER, row.entity_name, row.id):
            raise NotFound("There is no such project.")
        context.viewer.must_have_role(Role.ADMIN, row.entity_name, row.id, row.name)
        return Place(row.entity_id, row.id, None)
    entity = users.entity_by_id(connection, ids.decode("Entity", wire_id))
    if entity is None or not context.viewer.may_use(entity.name):
        raise NotFound("There is no such entity, or you may not have automations for all of it.")
    if entity.kind not in {"team", registries.ORGANIZATION}:
        raise RequestError("Automations for all projects are those of teams. Make one for each project of yours.")
    return Place(entity.id, None, None)


def _name(connection: Connection, entity_id: int, name: str, own_id: int | None = None) -> str:
    if not 0 < len(name) <= MAX_NAME_CHARS:
        raise RequestError(f"An automation's name has 1 to {MAX_NAME_CHARS} characters, not {len(name)}.")
    if automations.id_by_name(connection, entity_id, name) not in {None, own_id}:
        raise NameTaken(f"There is an automation {name!r} already. Choose another name, or change that one.")
    return name


def _event(connection: Connection, place: Place, event: str, filter_text: str) -> dict[str, Any]:
    if event not in set(EventType):
        raise RequestError(f"Automations cannot wait for {event}. Use one of: {', '.join(EventType)}.")
    if event in RUN_EVENTS and place.collection_id is not None:
        raise RequestError(f"In a collection of artifacts there are no runs, so no {event}. Name its project.")
    condition = events.condition(EventType(event), filter_text)
    if condition is not None:  # found out when it happens, it would hold up whoever logs an artifact
        filters.try_expressions(connection, condition)
    return {"event_type": event, "filter": filter_text}


def _action(connection: Connection, context: Context, action: Action) -> dict[str, Any]:
    found = usable(connection, context, action.integration) if action.integration is not None else None
    if found is not None and found.kind != _KINDS[action.type]:
        raise RequestError(f"Integration {found.name!r} is a {found.kind}, which takes no {action.type}.")
    stored = {"action_type": action.type, "action": json.dumps(action.content)}
    return {**stored, "integration_id": None if found is None else found.id}


def _watch(connection: Connection, context: Context, place: Place, values: dict[str, Any]) -> None:
    """Look at the runs that live already, if the automation is for runs."""
    if values["enabled"] and values["event_type"] in RUN_EVENTS:
        state, now = runs.state_expression(context.now), context.now
        watched_runs.watch_living(connection, place.project_id, place.entity_id, state, now)


def _node(connection: Connection, automation_id: int) -> JsonObject:
    row = automations.by_id(connection, automation_id)
    assert row is not None
    return node(connection, row)
