"""Projects and registries made, changed, renamed and deleted. A registry is a project of the organization."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.authentication import rights_changed
from server.context import Context
from server.errors import Conflict, RequestError
from server.graphql import Info, Resolvers
from server.registry_roles import Role
from server.resolvers.projects import check_name, node
from server.resolvers.registries import administered
from server.storage import collections, projects, registries, users

resolvers = Resolvers()

ACCESSES = (registries.OPEN, registries.RESTRICTED)


@resolvers.field("Mutation", "upsertModel")
async def upsert_model(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a project, or find the one that is there. A registry that is there is changed."""
    context = info.context
    entity = input.get("entityName") or context.viewer.entity
    name = input.get("name") or ""
    check_name(name)

    def work(connection: Connection) -> tuple[dict[str, Any], bool]:
        if entity == registries.organization(connection).name:
            return _upsert_registry(connection, context, name, input)
        context.viewer.must_use(entity)
        project_id, inserted = projects.ensure(
            connection,
            users.entity_id(connection, entity),
            name,
            user_id=context.viewer.id,
            now=context.now,
            description=input.get("description"),
        )
        return _node(connection, project_id), inserted

    made, inserted = await context.services.database.write(work)
    rights_changed(context.services)
    return {"project": made, "model": made, "inserted": inserted}


def _upsert_registry(
    connection: Connection, context: Context, name: str, input: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """Make a registry, whose first admin is who makes it, or change the one that is there."""
    organization = registries.organization(connection)
    known = projects.find(connection, organization.name, name)
    if known is None:
        _check_registry_name(name)
        project_id, _ = projects.ensure(
            connection, organization.id, name, user_id=context.viewer.id, now=context.now, description=None
        )
        registries.add_user(connection, project_id, context.viewer.id, Role.ADMIN)
    elif not context.viewer.has_role(Role.RESTRICTED_VIEWER, known.entity_name, known.id):
        raise Conflict(f"The name {name!r} is taken. Choose another.")
    else:
        project_id = administered(connection, context, known).id
    projects.change(connection, project_id, context.now, **_registry_values(input))
    kinds: list[dict[str, str]] = input.get("artifactTypes") or []
    for kind in kinds:
        collections.ensure_type(connection, project_id, kind["name"], context.now)
    return _node(connection, project_id), known is None


def _registry_values(input: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of a registry; null leaves a value as it is."""
    if input.get("access") not in {None, *ACCESSES}:
        raise RequestError(f"A registry cannot have the access {input['access']!r}. Use one of: {', '.join(ACCESSES)}.")
    said = {
        "description": input.get("description"),
        "access": input.get("access"),
        "any_artifact_type": input.get("allowAllArtifactTypesInRegistry"),
    }
    return {key: value for key, value in said.items() if value is not None}


@resolvers.field("Mutation", "renameProject")
async def rename_project(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Give a registry another name."""
    context = info.context
    old, new = input["oldProjectName"], input["newProjectName"]
    check_name(new)

    def work(connection: Connection) -> dict[str, Any]:
        row = administered(connection, context, projects.find(connection, input["entityName"], old))
        _check_registry_name(new)
        projects.rename(connection, row, new, context.now)
        return _node(connection, row.id)

    return {"project": await context.services.database.write(work), "inserted": False}


@resolvers.field("Mutation", "deleteModel")
async def delete_model(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a registry. The versions stay where they were logged."""
    context = info.context

    def work(connection: Connection) -> None:
        row = administered(connection, context, projects.by_id(connection, ids.decode("Project", input["id"])))
        projects.remove(connection, row.id)

    await context.services.database.write(work)
    rights_changed(context.services)
    return {"success": True}


def _check_registry_name(name: str) -> None:
    if not name.lower().startswith(registries.PREFIX) or len(name) == len(registries.PREFIX):
        raise RequestError(f"{name!r} cannot be a registry's name, which begins with {registries.PREFIX!r}.")


def _node(connection: Connection, project_id: int) -> dict[str, Any]:
    row = projects.by_id(connection, project_id)
    assert row is not None
    return node(row)
