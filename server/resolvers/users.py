"""Who: viewer, entities, teams, API keys, and what this server can do (`serverInfo`)."""

import secrets
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.context import Viewer
from server.graphql import Info, Resolvers
from server.storage import users

resolvers = Resolvers()

KEY_BYTES = 20  # the client wants at least 40 characters

# What the stock client does differently when the server says that it can. LAUNCHBAY is ours: it tells our agent that
# the mutations marked `Launchbay:` in the SDL are there.
FEATURES = (
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILE_DOWNLOAD_HANDLER",
    "LARGE_FILENAMES",
    "LAUNCHBAY",
    "MARK_RUN_FILES_UPLOADED",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "STRUCTURED_CONSOLE_LOGS",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
)


# The stock clients that the tests drive; `wandb verify` compares itself with them.
CLIENT_VERSIONS = {"min_cli_version": "0.31.0", "max_cli_version": "0.31.999"}


def new_secret() -> str:
    """Return a fresh API key."""
    return secrets.token_hex(KEY_BYTES)


@resolvers.field("Query", "viewer")
async def viewer(_: object, info: Info, **_unused: object) -> JsonObject:
    """Return the user behind the request."""
    context = info.context
    teams = await context.services.database.read(users.teams_of, context.viewer.id)
    return _user(context.viewer, teams)


@resolvers.field("Query", "serverInfo")
async def server_info(_: object, _info: Info) -> JsonObject:
    """Return the features of this server."""
    return {"features": [{"name": name, "isEnabled": True} for name in FEATURES], "cliVersionInfo": CLIENT_VERSIONS}


@resolvers.field("Query", "entity")
async def entity(_: object, info: Info, name: str | None = None, **_unused: object) -> JsonObject | None:
    """Return an entity that the viewer is a member of."""
    context = info.context
    wanted = name or context.viewer.entity
    if not context.viewer.may_use(wanted):
        return None
    row = await context.services.database.read(users.entity_by_name, wanted)
    if row is None:
        return None
    return {
        "row_id": row.id,
        "id": ids.encode("Entity", row.id),
        "name": row.name,
        "isTeam": row.kind == "team",
        "entityType": row.kind,
        "available": False,
        "readOnly": False,
        "readOnlyAdmin": False,
        "privateOnly": False,
        "storageBytes": 0,
        "codeSavingEnabled": True,
        "defaultAccess": "PRIVATE",
        "members": [],
    }


@resolvers.field("Mutation", "generateApiKey")
async def generate_api_key(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make another API key of the caller. The answer is the only place where it can be read."""
    context = info.context
    description = input.get("description") or ""

    def work(connection: Connection) -> users.NewKey:
        return users.create_key(connection, context.viewer.id, new_secret(), now=context.now, description=description)

    key = await context.services.database.write(work)
    return {"apiKey": {"id": ids.encode("ApiKey", key.id), "name": key.secret, "description": description}}


@resolvers.field("Mutation", "deleteApiKey")
async def delete_api_key(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take back one of the caller's own API keys."""
    context = info.context
    key_id = ids.decode("ApiKey", input["id"])
    return {"success": await context.services.database.write(users.delete_key, key_id, context.viewer.id)}


def _user(who: Viewer, teams: list[str]) -> JsonObject:
    return {
        "id": ids.encode("User", who.id),
        "name": who.username,
        "username": who.username,
        "email": who.email,
        "entity": who.entity,
        "admin": who.admin,
        "flags": '{"code_saving_enabled": true}',
        "teams": {"edges": [{"node": {"name": name}} for name in teams]},
        "apiKeys": {"edges": []},
    }
