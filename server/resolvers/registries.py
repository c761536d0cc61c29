"""The organization that everybody is in, and the members of its registries."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.authentication import rights_changed
from server.context import Context
from server.errors import NotFound, RequestError
from server.graphql import Info, Resolvers
from server.registry_roles import Role
from server.resolvers.users import entity_node
from server.storage import projects, registries, teams, users
from server.storage.rows import AnyRow

resolvers = Resolvers()

FIRST_ROLE = Role.VIEWER
"""That of who is added to a registry, until an admin of it gives another."""


def _organization_node(row: AnyRow) -> JsonObject:
    return {"id": ids.encode("Organization", row.id), "name": row.name, "orgEntity": entity_node(row)}


@resolvers.field("Query", "organization")
async def organization(_: object, info: Info, name: str | None = None) -> JsonObject | None:
    """Return the organization. There is one."""
    row = await info.context.services.database.read(registries.organization)
    return _organization_node(row) if (name or row.name).lower() == row.name else None


@resolvers.field("Entity", "organization")
async def organization_of_entity(entity: dict[str, Any], info: Info) -> JsonObject | None:
    """Return the organization that a team is in. A user's own entity is in none by itself: see `user`."""
    return None if await _is_a_users(entity, info) else await organization(None, info)


@resolvers.field("Entity", "user")
async def user_of_entity(entity: dict[str, Any], info: Info) -> JsonObject | None:
    """Return whose own entity this is, as far as his organizations are concerned."""
    if not await _is_a_users(entity, info):
        return None
    return {"id": entity["id"], "name": entity["name"], "username": entity["name"]}


async def _is_a_users(entity: dict[str, Any], info: Info) -> bool:
    row = await info.context.services.database.read(users.entity_by_name, entity["name"])
    return row is not None and row.kind == "user"


@resolvers.field("User", "organizations")
async def organizations_of_user(_: object, info: Info) -> list[JsonObject]:
    """List what organizations a user is in."""
    return [_organization_node(await info.context.services.database.read(registries.organization))]


@resolvers.field("Project", "members")
async def members(project: dict[str, Any], info: Info) -> list[JsonObject]:
    """List the users who are members of a registry by themselves."""
    rows = await info.context.services.database.read(registries.users_of, project["row_id"])
    return [
        {
            "id": ids.encode("User", row.id),
            "name": row.name,
            "username": row.username,
            "email": row.email,
            "role": {"name": row.role},
        }
        for row in rows
    ]


@resolvers.field("Project", "teamMembers")
async def team_members(project: dict[str, Any], info: Info) -> list[JsonObject]:
    """List the teams that are members of a registry."""
    rows = await info.context.services.database.read(registries.teams_of, project["row_id"])
    return [{"team": entity_node(row), "role": {"name": row.role}} for row in rows]


@resolvers.field("Mutation", "createProjectMembers")
async def create_members(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make users and teams members of a registry."""

    def work(connection: Connection, context: Context) -> None:
        project_id, user_ids, team_ids = _named(connection, context, input)
        for user_id in user_ids:
            if not teams.is_user(connection, user_id):
                raise NotFound("There is no such user.")
            registries.add_user(connection, project_id, user_id, FIRST_ROLE)
        for team_id in team_ids:
            if not teams.is_team(connection, team_id):
                raise NotFound("There is no such team.")
            registries.add_team(connection, project_id, team_id, FIRST_ROLE)

    return await _change(info, work)


@resolvers.field("Mutation", "deleteProjectMembers")
async def delete_members(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """End memberships of a registry."""

    def work(connection: Connection, context: Context) -> None:
        project_id, user_ids, team_ids = _named(connection, context, input)
        left = [registries.remove_user(connection, project_id, user_id) for user_id in user_ids]
        left += [registries.remove_team(connection, project_id, team_id) for team_id in team_ids]
        _must_be_members(all(left))

    return await _change(info, work)


@resolvers.field("Mutation", "updateProjectMember")
async def update_member(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Give a user of a registry another role."""
    role = _role(input["userProjectRole"])

    def work(connection: Connection, context: Context) -> None:
        project_id = _by_id(connection, context, input["projectId"])
        user_id = ids.decode("User", input["userId"])
        _must_be_members(registries.set_user_role(connection, project_id, user_id, role))

    return await _change(info, work)


@resolvers.field("Mutation", "updateProjectTeamMember")
async def update_team(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Give a team of a registry another role."""
    role = _role(input["teamProjectRole"])

    def work(connection: Connection, context: Context) -> None:
        project_id = _by_id(connection, context, input["projectId"])
        team_id = ids.decode("Entity", input["teamId"])
        _must_be_members(registries.set_team_role(connection, project_id, team_id, role))

    return await _change(info, work)


async def _change(info: Info, work: Any) -> JsonObject:
    await info.context.services.database.write(work, info.context)
    rights_changed(info.context.services)
    return {"success": True}


def _named(connection: Connection, context: Context, input: dict[str, Any]) -> tuple[int, list[int], list[int]]:
    """Return a registry that the viewer is an admin of, and the users and teams that are named."""
    project_id = _by_id(connection, context, input["projectId"])
    user_ids: list[str] = input.get("userIds") or []
    team_ids: list[str] = input.get("teamIds") or []
    decoded = [ids.decode("User", user_id) for user_id in user_ids]
    return project_id, decoded, [ids.decode("Entity", team_id) for team_id in team_ids]


def administered(connection: Connection, context: Context, row: AnyRow | None) -> AnyRow:
    """Return a project's row if it is a registry that the viewer may change; `NotFound` or `Forbidden` if not."""
    is_registry = row is not None and row.entity_id == registries.organization(connection).id
    if row is None or not is_registry or not context.viewer.has_role(Role.RESTRICTED_VIEWER, row.entity_name, row.id):
        raise NotFound("There is no such registry.")
    context.viewer.must_have_role(Role.ADMIN, row.entity_name, row.id, row.name)
    return row


def _by_id(connection: Connection, context: Context, wire_id: str) -> int:
    return administered(connection, context, projects.by_id(connection, ids.decode("Project", wire_id))).id


def _role(name: str) -> Role:
    try:
        return Role(name)
    except ValueError as error:
        raise RequestError(f"There is no role {name!r}. Use one of: {', '.join(Role)}.") from error


def _must_be_members(found: bool) -> None:
    if not found:
        raise NotFound("One of them is no member of the registry.")
