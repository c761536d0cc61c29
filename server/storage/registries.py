"""The organization, which all users of the server are in, and its registries: projects that versions are linked to.

Who has which role in a registry is told by its members, users and teams. One that is open to the organization can be
seen by everybody; the ones that the server has made are nobody's, so everybody is a member of them.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, count

from sqlalchemy import Connection, Table, delete, insert, select, update

from server.registry_roles import Role
from server.storage import projects as project_storage
from server.storage.rows import AnyRow
from server.storage.tables import entities, members, projects, registry_teams, registry_users, users
from server.storage.upsert import upsert

ORGANIZATION = "organization"
"""The kind of the organization's entity."""
NAME = "launchbay"
PREFIX = "wandb-registry-"
FIRST_REGISTRIES = (f"{PREFIX}dataset", f"{PREFIX}model")
OPEN = "PRIVATE"
"""How the protocol calls a registry that everybody in the organization sees."""
RESTRICTED = "RESTRICTED"


def ensure_organization(connection: Connection, now: float) -> None:
    """Make the organization and its first registries, if they are missing."""
    if connection.scalar(select(entities.c.id).where(entities.c.kind == ORGANIZATION)) is not None:
        return
    taken = set(connection.scalars(select(entities.c.name_key)))
    name = next(name for name in chain([NAME], (f"{NAME}-{number}" for number in count(2))) if name not in taken)
    row = {"name": name, "name_key": name, "kind": ORGANIZATION, "created_at": now}
    connection.execute(insert(entities), row)
    for registry in FIRST_REGISTRIES:
        project_storage.ensure(connection, organization(connection).id, registry, user_id=None, now=now)


def organization(connection: Connection) -> AnyRow:
    """Return the organization's entity."""
    return connection.execute(select(entities).where(entities.c.kind == ORGANIZATION)).one()


def roles_of(connection: Connection, user_id: int) -> Mapping[int, Role]:
    """Return a user's role in each registry that is open to him, by its row number: the highest that he has."""
    roles: dict[int, Role] = {}
    for project_id, role in _roles(connection, user_id):
        if project_id not in roles or role.includes(roles[project_id]):
            roles[project_id] = role
    return roles


def _roles(connection: Connection, user_id: int) -> list[tuple[int, Role]]:
    own = select(registry_users.c.project_id, registry_users.c.role).where(registry_users.c.user_id == user_id)
    of_teams = (
        select(registry_teams.c.project_id, registry_teams.c.role)
        .join(members, members.c.entity_id == registry_teams.c.entity_id)
        .where(members.c.user_id == user_id)
    )
    of_all = (
        select(projects.c.id, projects.c.created_by)
        .join(entities, entities.c.id == projects.c.entity_id)
        .where(entities.c.kind == ORGANIZATION, projects.c.access == OPEN)
    )
    found = [(row[0], Role(row[1])) for row in connection.execute(own.union_all(of_teams))]
    return found + [(row[0], Role.MEMBER if row[1] is None else Role.VIEWER) for row in connection.execute(of_all)]


def users_of(connection: Connection, project_id: int) -> Sequence[AnyRow]:
    """Return the users who are members of a registry by themselves, each with a `role`."""
    statement = select(users, registry_users.c.role).join(registry_users, registry_users.c.user_id == users.c.id)
    there = (registry_users.c.project_id == project_id) & users.c.deleted_at.is_(None)
    return connection.execute(statement.where(there).order_by(users.c.id)).all()


def teams_of(connection: Connection, project_id: int) -> Sequence[AnyRow]:
    """Return the teams that are members of a registry, each with a `role`."""
    statement = select(entities, registry_teams.c.role).join(
        registry_teams, registry_teams.c.entity_id == entities.c.id
    )
    return connection.execute(statement.where(registry_teams.c.project_id == project_id).order_by(entities.c.id)).all()


def add_user(connection: Connection, project_id: int, user_id: int, role: Role) -> None:
    """Make a user a member of a registry; who is one keeps his role."""
    row = {"project_id": project_id, "user_id": user_id, "role": role.value}
    upsert(connection, registry_users, [row], update=())


def add_team(connection: Connection, project_id: int, team_id: int, role: Role) -> None:
    """Make a team a member of a registry; one that is there keeps its role."""
    row = {"project_id": project_id, "entity_id": team_id, "role": role.value}
    upsert(connection, registry_teams, [row], update=())


def set_user_role(connection: Connection, project_id: int, user_id: int, role: Role) -> bool:
    """Change a member's role; whether he is one."""
    return _set_role(connection, registry_users, project_id, user_id, role)


def set_team_role(connection: Connection, project_id: int, team_id: int, role: Role) -> bool:
    """Change a team's role; whether it is a member."""
    return _set_role(connection, registry_teams, project_id, team_id, role)


def remove_user(connection: Connection, project_id: int, user_id: int) -> bool:
    """End a user's membership; whether there was one."""
    return _remove(connection, registry_users, project_id, user_id)


def remove_team(connection: Connection, project_id: int, team_id: int) -> bool:
    """End a team's membership; whether there was one."""
    return _remove(connection, registry_teams, project_id, team_id)


def _set_role(connection: Connection, table: Table, project_id: int, member_id: int, role: Role) -> bool:
    of_project, of_member = table.primary_key.columns
    statement = update(table).where(of_project == project_id, of_member == member_id).values(role=role.value)
    return connection.execute(statement).rowcount > 0


def _remove(connection: Connection, table: Table, project_id: int, member_id: int) -> bool:
    of_project, of_member = table.primary_key.columns
    return connection.execute(delete(table).where(of_project == project_id, of_member == member_id)).rowcount > 0
