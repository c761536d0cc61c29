"""Teams: made, joined by invites, left; and their service accounts.

No mail is sent: who is here becomes a member at once, and an invite of somebody else waits for a user with that e-mail
address.
"""

import re
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.authentication import rights_changed
from server.context import Context
from server.errors import Conflict, Forbidden, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers.users import entity_node, new_secret, user_node
from server.storage import teams, users
from server.storage.rows import AnyRow
from server.times import iso

resolvers = Resolvers()


@resolvers.field("Entity", "members")
async def members(entity: dict[str, Any], info: Info) -> list[JsonObject]:
    """List who is in an entity: people, who is invited, and service accounts, the newest of them last."""
    context = info.context

    def work(connection: Connection) -> list[JsonObject]:
        rows = teams.members_of(connection, entity["row_id"])
        people = [_member(row) for row in rows if not row.service_account]
        accounts = [_member(row) for row in rows if row.service_account]
        return [*people, *(_invited(row) for row in teams.invites_of(connection, entity["row_id"])), *accounts]

    listed = await context.services.database.read(work)
    if context.viewer.service_account:
        return listed
    fresh = context.services.fresh_keys
    return [{**member, "apiKey": fresh.get((context.viewer.id, member["id"]), context.now)} for member in listed]


@resolvers.field("Mutation", "createTeam")
async def create_team(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a team; the caller is its admin, or whom an admin of the server names."""
    context = info.context
    admin = input.get("teamAdminUserName") or context.viewer.username
    if context.viewer.service_account:
        raise Forbidden("A service account cannot make teams.")
    if admin != context.viewer.username and not context.viewer.admin:
        raise Forbidden("Only an admin of the server makes a team for somebody else. Leave the admin's name out.")

    def work(connection: Connection) -> AnyRow:
        owner = users.user_by_name(connection, admin)
        if owner is None:
            raise NotFound(f"There is no user {admin!r}.")
        team_id = users.create_entity(connection, input["teamName"], "team", context.now)
        users.add_member(connection, team_id, owner.id, "admin")
        found = users.entity_by_name(connection, input["teamName"])
        assert found is not None
        return found

    made = await context.services.database.write(work)
    rights_changed(context.services)
    return {"entity": entity_node(made)}


@resolvers.field("Mutation", "createInvite")
async def create_invite(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make somebody a member, at once or as soon as he is here."""
    context = info.context
    username, email = input.get("username"), (input.get("email") or "").strip()
    role = "admin" if input.get("admin") else "member"
    if not username and "@" not in email:
        raise RequestError("Say whom to invite: a `username`, or an `email` address.")

    def work(connection: Connection) -> JsonObject:
        team = _team_of_admin(connection, context, input["entityName"])
        user = users.user_by_name(connection, username) if username else users.user_by_email(connection, email)
        if user is None and username:
            raise NotFound(f"There is no user {username!r}. Invite by e-mail address whoever is not here yet.")
        if user is None:
            invite_id = teams.invite(connection, team.id, email, role, context.viewer.id, context.now)
            return {"id": ids.encode("Invite", invite_id), "name": email, "email": email, "createdAt": iso(context.now)}
        _keep_an_admin(connection, team, user.id, role)
        users.add_member(connection, team.id, user.id, role)
        own = users.entity_name(connection, user.default_entity_id)
        shown = user_node(user, own, [], [])
        return {
            "id": ids.encode("User", user.id),
            "name": user.username,
            "email": user.email,
            "createdAt": iso(context.now),
            "toUser": shown,
        }

    made = await context.services.database.write(work)
    rights_changed(context.services)
    return {"invite": made}


@resolvers.field("Mutation", "deleteInvite")
async def delete_invite(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """End a membership, or take an invite back. Members may leave by themselves; a service account ends with it."""
    context = info.context
    wire_id: str = input.get("id") or ""
    name = input.get("entityName") or context.viewer.entity

    def work(connection: Connection) -> bool:
        if ids.is_of("Invite", wire_id):
            team = _team_of_admin(connection, context, name)
            return teams.remove_invite(connection, team.id, ids.decode("Invite", wire_id))
        user_id = ids.decode("User", wire_id)
        leaves = user_id == context.viewer.id and not context.viewer.service_account
        team = _team(connection, context, name) if leaves else _team_of_admin(connection, context, name)
        _keep_an_admin(connection, team, user_id, "nobody")
        if not teams.remove_member(connection, team.id, user_id):
            return False
        users.use_own_entity(connection, user_id, team.id)
        if users.user_by_id(connection, user_id).service_account:
            users.retire(connection, user_id, context.now)
        return True

    removed = await context.services.database.write(work)
    if not removed:
        raise NotFound(f"Nobody with this id is in team {name!r}.")
    rights_changed(context.services)
    return {"success": True}


@resolvers.field("Mutation", "createServiceAccount")
async def create_service_account(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a service account of a team, with its key."""
    context = info.context
    description = input["description"].strip()
    secret = new_secret()

    def work(connection: Connection) -> tuple[AnyRow, users.NewKey]:
        team = _team_of_admin(connection, context, input["entityName"])
        name = re.sub(r"[^a-z0-9]+", "-", f"{team.name}-{description}".lower()).strip("-")[:48]
        suffix = f"{context.services.random.getrandbits(32):08x}"
        user_id = users.create_user(connection, f"{name}-{suffix}", now=context.now, service_account=True)
        users.become_service_account(connection, user_id, team.id, description or name)
        users.add_member(connection, team.id, user_id, "member")
        key = users.create_key(connection, user_id, secret, now=context.now, description=description)
        return users.user_by_id(connection, user_id), key

    row, key = await context.services.database.write(work)
    # The stock client reads the key from the team's members, right after this.
    context.services.fresh_keys.put((context.viewer.id, ids.encode("User", row.id)), secret, context.now)
    shown = user_node(row, input["entityName"], [input["entityName"]], [])
    return {"user": shown, "apiKey": {"id": ids.encode("ApiKey", key.id), "name": secret, "description": description}}


def _team(connection: Connection, context: Context, name: str) -> AnyRow:
    """Return a team that the viewer is a member of, and let nobody else change its admins meanwhile."""
    context.viewer.must_use(name)
    row = users.entity_by_name(connection, name)
    if row is None or row.kind != "team":
        raise NotFound(f"There is no team {name!r}.")
    teams.lock_admins(connection, row.id)
    return row


def _team_of_admin(connection: Connection, context: Context, name: str) -> AnyRow:
    """Return a team that the viewer may change."""
    team = _team(connection, context, name)
    viewer = context.viewer
    own = not viewer.service_account and teams.role_of(connection, team.id, viewer.id) == "admin"
    if not own and not viewer.admin:
        raise Forbidden(f"Only an admin of team {name!r} may do this.")
    return team


def _keep_an_admin(connection: Connection, team: AnyRow, user_id: int, role: str) -> None:
    """Raise `Conflict` if a team would have no admin with this user in another role."""
    if role == "admin" or teams.role_of(connection, team.id, user_id) != "admin":
        return
    if not teams.other_admins(connection, team.id, user_id):
        raise Conflict(f"Team {team.name!r} would have no admin. Make somebody else one first: invite him as admin.")


def _member(row: AnyRow) -> dict[str, Any]:
    kind = "SERVICE" if row.service_account else "MEMBER"
    shown = _listed(ids.encode("User", row.id), row.name, row, pending=False, kind=kind)
    return {**shown, "username": row.username}


def _invited(row: AnyRow) -> dict[str, Any]:
    return _listed(ids.encode("Invite", row.id), row.email, row, pending=True, kind="MEMBER")


def _listed(wire_id: str, name: str, row: AnyRow, *, pending: bool, kind: str) -> dict[str, Any]:
    """Shape the row of whoever stands in the list of members, with a role there and an e-mail address."""
    return {
        "__typename": "Member",
        "id": wire_id,
        "name": name,
        "email": row.email,
        "role": row.role,
        "admin": row.role == "admin",
        "pending": pending,
        "accountType": kind,
    }
