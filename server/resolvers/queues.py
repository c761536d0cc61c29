"""Run queues: made, changed, read, deleted."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from protocol import templates
from protocol.json_types import JsonObject
from protocol.resources import check_resource
from protocol.states import ItemState
from server import ids, pushing
from server.context import Context
from server.errors import Conflict, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers import items as item_resolvers
from server.resolvers import projects as project_resolvers
from server.resolvers.batches import Batch
from server.resolvers.paging import Page, connection_of
from server.storage import projects, queue_items, queues, users
from server.storage.rows import AnyRow

resolvers = Resolvers()

MAX_NAME_CHARS = 64


def nodes(rows: Sequence[AnyRow], context: Context) -> list[dict[str, Any]]:
    """Shape queues' rows for the SDL. What is costly to tell is told for all of them at once."""
    queue_ids = [row.id for row in rows]
    waiting = Batch(lambda: context.services.database.read(queues.pending_counts, queue_ids))
    return [{**_node(row), "waiting": waiting} for row in rows]


def _node(row: AnyRow) -> dict[str, Any]:
    return {
        "row_id": row.id,
        "project_row_id": row.project_id,
        "id": ids.encode("RunQueue", row.id),
        "name": row.name,
        "createdBy": ids.encode("User", row.created_by),
        "access": row.access,
        "prioritizationMode": row.prioritization_mode,
        "defaultResourceConfigID": _config_id(row.resource_config_id),
        "externalLinks": json.loads(row.external_links),
        "defaultResourceConfig": _config(row, row.resource_config_id) if row.resource_config_id else None,
    }


def _config_id(number: int | None) -> str | None:
    return ids.encode("DefaultResourceConfig", number) if number else None


def _config(row: AnyRow, number: int) -> JsonObject:
    variables: dict[str, Any] = json.loads(row.template_variables)
    compact = {"separators": (",", ":")}
    return {
        "id": _config_id(number),
        "resource": row.resource,
        "config": json.loads(row.config),
        "templateVariables": [
            {"name": name, "schema": json.dumps(declared["schema"], **compact)}  # pyright: ignore[reportArgumentType]
            for name, declared in variables.items()
        ],
    }


@resolvers.field("Project", "runQueues")
async def run_queues(project: dict[str, Any], info: Info) -> list[dict[str, Any]]:
    """List a project's queues."""
    return nodes(await info.context.services.database.read(queues.in_project, project["row_id"]), info.context)


@resolvers.field("Project", "runQueue")
async def run_queue(project: dict[str, Any], info: Info, name: str) -> dict[str, Any] | None:
    """Return a queue of a project, or null."""
    row = await info.context.services.database.read(queues.by_name, project["row_id"], name)
    return nodes([row], info.context)[0] if row else None


@resolvers.field("Entity", "defaultResourceConfig")
async def default_resource_config(entity: dict[str, Any], info: Info, id: str) -> JsonObject | None:
    """Return a resource config of an entity."""
    config_id = ids.decode("DefaultResourceConfig", id)
    row = await info.context.services.database.read(queues.config_by_id, entity["row_id"], config_id)
    return _config(row, row.id) if row else None


@resolvers.field("RunQueueItem", "runQueue")
async def queue_of_item(item: dict[str, Any], info: Info) -> dict[str, Any] | None:
    """Return the queue that an item was pushed to."""
    row = await item["queues"].get(item["queue_row_id"])
    return nodes([row], info.context)[0] if row else None


@resolvers.field("RunQueue", "project")
async def project_of_queue(queue: dict[str, Any], info: Info) -> dict[str, Any] | None:
    """Return the project that a queue is in."""
    row = await info.context.services.database.read(projects.by_id, queue["project_row_id"])
    return project_resolvers.node(row) if row else None


@resolvers.field("RunQueue", "pendingCount")
async def pending_count(queue: dict[str, Any], _: Info) -> int:
    """Count what waits."""
    return await queue["waiting"].get(queue["row_id"]) or 0


@resolvers.field("RunQueue", "runQueueItems")
async def queue_items_of(
    queue: dict[str, Any],
    info: Info,
    first: int | None = None,
    after: str | None = None,
    states: list[str] | None = None,
) -> JsonObject:
    """List a queue's items, newest first."""
    context = info.context
    page = Page.of(first, after, 100)
    wanted = frozenset(_item_state(state) for state in states or ())
    rows = await context.services.database.read(
        queue_items.in_queue, queue["row_id"], page.after, page.limit + 1, wanted, context.now
    )
    shaped = zip(rows, item_resolvers.nodes(rows, context), strict=True)
    return connection_of([(row.id, node) for row, node in shaped], page)


def _item_state(name: str) -> ItemState:
    try:
        return ItemState(name.upper())
    except ValueError as error:
        raise RequestError(f"{name!r} is no state of an item; use {', '.join(ItemState)}.") from error


@resolvers.field("RunQueue", "runQueueItem")
async def queue_item(queue: dict[str, Any], info: Info, id: str) -> dict[str, Any] | None:
    """Return an item of the queue, or null."""
    try:
        row = await info.context.services.database.read(queue_items.by_id, ids.decode("RunQueueItem", id))
    except NotFound:
        return None
    return item_resolvers.nodes([row], info.context)[0] if row.queue_id == queue["row_id"] else None


@resolvers.field("Mutation", "createDefaultResourceConfig")
async def create_default_resource_config(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Store a resource config for a queue that is made next."""
    context = info.context
    context.viewer.must_use(input["entityName"])
    config, variables = _checked_config(input["resource"], input["config"], input.get("templateVariables"))

    def work(connection: Connection) -> int:
        entity_id = users.entity_id(connection, input["entityName"])
        return queues.create_config(connection, entity_id, input["resource"], config, variables, context.now)

    config_id = await context.services.database.write(work)
    return {"defaultResourceConfigID": _config_id(config_id), "success": True}


@resolvers.field("Mutation", "createRunQueue")
async def create_run_queue(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a queue. A name that is taken is an error: `upsertRunQueue` changes a queue."""
    context = info.context
    name = _checked_name(input["queueName"])
    config_id = input.get("defaultResourceConfigID")

    def work(connection: Connection) -> int:
        project_id = project_resolvers.ensure(connection, context, input["entityName"], input["projectName"])
        entity_id = users.entity_id(connection, input["entityName"])
        own_config = ids.decode("DefaultResourceConfig", config_id) if config_id else None
        if own_config and queues.config_by_id(connection, entity_id, own_config) is None:
            raise NotFound(f"Entity {input['entityName']!r} has no resource config {config_id!r}.")
        if queues.by_name(connection, project_id, name):
            raise Conflict(f"Entity {input['entityName']!r} has a queue {name!r} already. Choose another name.")
        return queues.create(
            connection,
            project_id,
            name,
            user_id=context.viewer.id,
            now=context.now,
            access=input["access"],
            prioritization_mode=input.get("prioritizationMode") or "DISABLED",
            resource_config_id=own_config,
        )

    queue_id = await context.services.database.write(work)
    return {"success": True, "queueID": ids.encode("RunQueue", queue_id)}


@resolvers.field("Mutation", "upsertRunQueue")
async def upsert_run_queue(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a queue, or replace everything that an existing one says."""
    context = info.context
    name = _checked_name(input["queueName"])
    resource = input["resourceType"]
    config, variables = _checked_config(resource, input["resourceConfig"], input.get("templateVariables"))
    links = json.dumps(pushing.read_object(input.get("externalLinks"), "externalLinks") or {"links": []})

    def work(connection: Connection) -> None:
        project_id = project_resolvers.ensure(connection, context, input["entityName"], input["projectName"])
        entity_id = users.entity_id(connection, input["entityName"])
        values = {
            "resource_config_id": queues.create_config(connection, entity_id, resource, config, variables, context.now),
            "prioritization_mode": input.get("prioritizationMode") or "DISABLED",
            "external_links": links,
        }
        known = queues.by_name(connection, project_id, name)
        if known:
            queues.change(connection, known.id, context.now, **values)
            if values["prioritization_mode"] == "DISABLED":
                queues.forget_priorities(connection, known.id)
        else:
            queues.create(
                connection,
                project_id,
                name,
                user_id=context.viewer.id,
                now=context.now,
                access="PROJECT",
                **values,
            )

    await context.services.database.write(work)
    return {"success": True, "configSchemaValidationErrors": []}


@resolvers.field("Mutation", "deleteRunQueues")
async def delete_run_queues(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete queues with their items."""
    context = info.context

    def work(connection: Connection) -> None:
        for wire_id in input["queueIDs"]:
            row = queues.by_id(connection, ids.decode("RunQueue", wire_id))
            context.viewer.must_see(row.entity_name, "queue")
            queues.remove(connection, row.id)

    await context.services.database.write(work)
    context.services.places.forget()
    return {"success": True}


def _checked_name(name: str) -> str:
    if not name or len(name) > MAX_NAME_CHARS:
        raise RequestError(f"A queue's name has 1 to {MAX_NAME_CHARS} characters; {name!r} has {len(name)}.")
    return name


def _checked_config(resource: str, config: str, variables: str | None) -> tuple[str, str]:
    check_resource(resource)
    parsed = pushing.read_object(config, "The resource config")
    declared = pushing.read_object(variables, "templateVariables")
    known = templates.parse_variables(declared)
    missing = templates.variable_names(parsed) - set(known)
    if missing:
        raise RequestError(
            f"The resource config uses {', '.join(sorted(missing))} in {{{{ }}}}, which is not declared as a template "
            "variable. Declare it with a schema."
        )
    return json.dumps(parsed), json.dumps(declared)
