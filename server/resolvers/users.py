"""Who: viewer, entities, teams, API keys, and what this server can do (`serverInfo`)."""

import itertools
import re
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.authentication import rights_changed
from server.context import Context, Viewer
from server.errors import Forbidden, RequestError
from server.graphql import Info, Resolvers
from server.storage import registries, users
from server.storage.rows import AnyRow

resolvers = Resolvers()

MAX_FOUND = 100
KEY_BYTES = 20  # the client wants at least 40 characters

# What the stock client does differently when the server says that it can. LAUNCHBAY is ours: it tells our agent that
# the mutations marked `Launchbay:` in the SDL are there.
FEATURES = (
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILE_DOWNLOAD_HANDLER",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "ARTIFACT_TAGS",
    "ARTIFACT_REGISTRY_SEARCH",
    "AUTOMATION_ACTION_NO_OP",
    "AUTOMATION_EVENT_ADD_ARTIFACT_TAG",
    "AUTOMATION_EVENT_ADD_COLLECTION_TAG",
    "AUTOMATION_EVENT_REMOVE_ARTIFACT_TAG",
    "AUTOMATION_EVENT_REMOVE_COLLECTION_TAG",
    "AUTOMATION_EVENT_RUN_METRIC",
    "AUTOMATION_EVENT_RUN_METRIC_CHANGE",
    "AUTOMATION_EVENT_RUN_METRIC_ZSCORE",
    "AUTOMATION_EVENT_RUN_STATE",
    "AUTOMATION_EVENT_UNLINK_ARTIFACT",
    "AUTOMATION_SCOPE_ENTITY",
    "CLIENT_IDS",
    "INCLUDE_ARTIFACT_TYPES_IN_REGISTRY_CREATION",
    "LARGE_FILENAMES",
    "LAUNCHBAY",
    "MARK_RUN_FILES_UPLOADED",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "QUERY_AUTOMATIONS_ON_ENTITY",
    "STRUCTURED_CONSOLE_LOGS",
    "SWEEPS_LOCAL_SCHEDULER",
    "SWEEPS_QUERY_FILTERING",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
)


# The stock clients that the tests drive; `wandb verify` compares itself with them.
CLIENT_VERSIONS = {"min_cli_version": "0.25.1", "max_cli_version": "0.31.999"}


def new_secret() -> str:
    """Return a fresh API key."""
    return secrets.token_hex(KEY_BYTES)


def is_secret(text: str) -> bool:
    """Whether this may be an API key that was made here."""
    return re.fullmatch(f"[0-9a-f]{{{2 * KEY_BYTES}}}", text) is not None


@resolvers.field("Query", "viewer")
async def viewer(_: object, info: Info, **_unused: object) -> JsonObject:
    """Return the user behind the request."""
    context = info.context
    who = context.viewer

    def work(connection: Connection) -> JsonObject:
        row = users.user_by_id(connection, who.id)
        # What a service account shows is its own, also while it acts for a member.
        teams = [name for name in users.teams_of(connection, who.id) if name in who.entities]
        keys = [] if who.service_account else users.keys_of(connection, who.id)
        return {**user_node(row, who.entity, teams, keys), "admin": who.admin}

    return await context.services.database.read(work)


@resolvers.field("Query", "serverInfo")
async def server_info(_: object, _info: Info) -> JsonObject:
    """Return the features of this server."""
    return {"features": [{"name": name, "isEnabled": True} for name in FEATURES], "cliVersionInfo": CLIENT_VERSIONS}


@resolvers.field("Query", "entity")
async def entity(_: object, info: Info, name: str | None = None, **_unused: object) -> JsonObject | None:
    """Return an entity that the viewer is a member of, or the organization."""
    context = info.context
    wanted = name or context.viewer.entity
    row = await context.services.database.read(users.entity_by_name, wanted)
    if row is None or not (context.viewer.may_use(wanted) or row.kind == registries.ORGANIZATION):
        return None
    return entity_node(row)


def entity_node(row: AnyRow) -> JsonObject:
    """Shape an entity's row for the SDL; `server.resolvers.teams` adds its members."""
    return {
        "__typename": "Entity",
        "row_id": row.id,
        "id": ids.encode("Entity", row.id),
        "name": row.name,
        "isTeam": row.kind == "team",
        "entityType": row.kind,
        "available": False,
        "readOnly": False,
        "readOnlyAdmin": False,
        "privateOnly": False,
        "codeSavingEnabled": True,
        "defaultAccess": "PRIVATE",
    }


@resolvers.field("Mutation", "generateApiKey")
async def generate_api_key(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make another API key of the caller. The answer is the only place where it can be read."""
    context = info.context
    _must_be_a_person(context)
    description = input.get("description") or ""

    def work(connection: Connection) -> users.NewKey:
        return users.create_key(connection, context.viewer.id, new_secret(), now=context.now, description=description)

    key = await context.services.database.write(work)
    return {"apiKey": {"id": ids.encode("ApiKey", key.id), "name": key.secret, "description": description}}


@resolvers.field("Mutation", "deleteApiKey")
async def delete_api_key(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take back one of the caller's own API keys; an admin of the server takes back anybody's."""
    context = info.context
    _must_be_a_person(context)
    key_id = ids.decode("ApiKey", input["id"])
    owner = None if context.viewer.admin else context.viewer.id
    deleted = await context.services.database.write(users.delete_key, key_id, owner)
    if deleted:
        rights_changed(context.services)
    return {"success": deleted}


@resolvers.field("Query", "users")
async def search_users(_: object, info: Info, query: str | None = None) -> JsonObject:
    """Find users by the beginning or the end of name or e-mail address: admins all, others those of their teams."""
    context = info.context
    viewer = context.viewer
    within = None if viewer.admin else viewer.entities

    def work(connection: Connection) -> list[JsonObject]:
        return [_seen_by(viewer, connection, row) for row in users.search(connection, query or "", within, MAX_FOUND)]

    nodes = await context.services.database.read(work)
    return {"edges": [{"node": node} for node in nodes]}


@resolvers.field("Mutation", "createUser")
async def create_user(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a user, by an admin of the server. No mail is sent; `launchbay user key NAME` prints a key for him."""
    context = info.context
    if not context.viewer.admin:
        raise Forbidden("Only an admin of the server makes users.")
    email: str = input["email"].strip()
    if "@" not in email or any(sign.isspace() for sign in email):
        raise RequestError(f"{email!r} is not an e-mail address.")

    def work(connection: Connection) -> JsonObject:
        name = input.get("username") or _free_name(connection, email.partition("@")[0])
        admin = bool(input.get("admin"))
        user_id = users.create_user(connection, name, now=context.now, email=email, admin=admin)
        row = users.user_by_id(connection, user_id)
        return user_node(row, name, users.teams_of(connection, user_id), [])

    return {"user": await context.services.database.write(work)}


def _free_name(connection: Connection, wanted: str) -> str:
    """Return a name like the one wanted that nobody has."""
    base = re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted).strip("-._")[:56] or "user"
    for number in itertools.count(1):
        name = base if number == 1 else f"{base}-{number}"
        if not users.is_taken(connection, name):
            return name
    raise AssertionError("unreachable")


def _seen_by(viewer: Viewer, connection: Connection, row: AnyRow) -> JsonObject:
    """Shape another user, or the viewer: of teams that are not the viewer's, not even the name."""
    teams = [name for name in users.teams_of(connection, row.id) if viewer.may_use(name)]
    entity = users.entity_name(connection, row.default_entity_id)
    is_oneself = row.id == viewer.id and not viewer.service_account
    keys = users.keys_of(connection, row.id) if viewer.admin or is_oneself else []
    return user_node(row, entity if viewer.may_use(entity) else row.username, teams, keys)


@resolvers.field("Project", "user")
async def owner(project: dict[str, Any], info: Info) -> JsonObject | None:
    """Return who made a project."""
    context = info.context

    def work(connection: Connection) -> JsonObject | None:
        row = users.maker_of_project(connection, project["row_id"])
        return _seen_by(context.viewer, connection, row) if row else None

    return await context.services.database.read(work)


@resolvers.field("Entity", "storageBytes")
async def storage_bytes(entity: dict[str, Any], info: Info) -> int:
    """Return how much the files and artifacts of an entity take."""
    return await info.context.services.database.read(users.storage_bytes, entity["row_id"])


def _must_be_a_person(context: Context) -> None:
    if context.viewer.service_account:
        raise Forbidden("A service account has one key, which an admin of its team makes. It cannot make or take keys.")


def user_node(row: AnyRow, entity: str, teams: Sequence[str], keys: Sequence[AnyRow]) -> JsonObject:
    """Shape a user's row for the SDL."""
    shown = [
        {"node": {"id": ids.encode("ApiKey", key.id), "name": key.redacted, "description": key.description}}
        for key in keys
    ]
    return {
        "id": ids.encode("User", row.id),
        "name": row.name,
        "username": row.username,
        "email": row.email,
        "entity": entity,
        "admin": row.admin,
        "flags": '{"code_saving_enabled": true}',
        "teams": {"edges": [{"node": {"name": name}} for name in teams]},
        "apiKeys": {"edges": shown},
    }
