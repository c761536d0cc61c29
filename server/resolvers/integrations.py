"""Integrations: where automations and alerts are sent, and what came of sending them.

An admin of a team makes its integrations, and everybody his own. What one of them may reach is said in
`server.automations.reach`.
"""

import re
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.context import Context
from server.errors import Forbidden, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers.paging import Page, connection_of
from server.storage import deliveries, integrations, teams, users
from server.storage.rows import AnyRow
from server.times import iso

resolvers = Resolvers()

NAME = re.compile(r"[-#\w]+( +[-#\w]+)*")
MAX_NAME_CHARS = 64
TYPES = {integrations.WEBHOOK: "GenericWebhookIntegration", integrations.SLACK: "SlackIntegration"}


def node(row: AnyRow) -> JsonObject:
    """Shape an integration. Its secrets are not told, and the URL of Slack is one."""
    shown: JsonObject = {
        "__typename": TYPES[row.kind],
        "id": ids.encode("Integration", row.id),
        "getsAlerts": row.gets_alerts,
    }
    if row.kind == integrations.SLACK:
        return {**shown, "teamName": urlsplit(str(row.url)).hostname, "channelName": row.name}
    return {**shown, "name": row.name, "urlEndpoint": row.url}


def usable(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    """Return an integration of an entity of the viewer's."""
    row = integrations.by_id(connection, ids.decode("Integration", wire_id))
    if row is None or not context.viewer.may_use(row.entity_name):
        raise NotFound("There is no such integration.")
    return row


@resolvers.field("Entity", "integrations")
async def integration_list(
    entity: dict[str, Any], info: Info, first: int | None = None, after: str | None = None
) -> JsonObject:
    """List an entity's integrations, to its members."""
    context, page = info.context, Page.of(first, after)
    if not context.viewer.may_use(entity["name"]):
        return connection_of([], page)
    rows = await context.services.database.read(integrations.listing, entity["row_id"], page.after, page.limit + 1)
    return connection_of([(row.id, node(row)) for row in rows], page)


@resolvers.field("Entity", "deliveries")
async def delivery_list(entity: dict[str, Any], info: Info, first: int | None = None) -> list[JsonObject]:
    """List what was sent, or is to be, to an entity's members."""
    context = info.context
    if not context.viewer.may_use(entity["name"]):
        return []
    rows = await context.services.database.read(deliveries.newest, entity["row_id"], Page.of(first, None).limit)
    return [
        {
            "id": ids.encode("Delivery", row.id),
            "automationName": row.automation_name,
            "integrationName": row.integration_name,
            "eventType": row.event_type,
            "state": row.state,
            "attempts": row.attempts,
            "answer": row.answer,
            "createdAt": iso(row.created_at),
            "endedAt": iso(row.ended_at),
        }
        for row in rows
    ]


@resolvers.field("Mutation", "createGenericWebhookIntegration")
async def create_webhook(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a webhook."""
    if input.get("accessTokenRef") or input.get("secretRef"):
        raise RequestError(
            "This server keeps no secrets by name. Give them with the webhook: launchbay integration create webhook "
            "NAME --url URL --access-token-file FILE --secret-file FILE"
        )
    secrets = {"access_token": input.get("accessToken"), "secret": input.get("secret")}
    if not re.fullmatch(r"[!-~]*", secrets["access_token"] or ""):
        raise RequestError("The access token cannot be sent: it holds something else than letters, digits and signs.")
    return await _create(info.context, integrations.WEBHOOK, input["name"], input["urlEndpoint"], input, secrets)


@resolvers.field("Mutation", "createSlackIntegration")
async def create_slack(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a channel of Slack, or of what takes the same messages."""
    return await _create(info.context, integrations.SLACK, input["channelName"], input["url"], input, {})


async def _create(
    context: Context, kind: str, name: str, url: str, input: dict[str, Any], secrets: dict[str, Any]
) -> JsonObject:
    if len(name) > MAX_NAME_CHARS or not NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} cannot be an integration's name: use words of letters, digits, dashes and underscores, "
            f"{MAX_NAME_CHARS} characters at most."
        )
    _check_url(url)

    def work(connection: Connection) -> AnyRow:
        integration_id = integrations.create(
            connection,
            _administered(connection, context, input["entityName"]).id,
            name,
            kind=kind,
            url=url,
            **secrets,
            gets_alerts=bool(input.get("getsAlerts")),
            reaches_all=context.viewer.admin,
            created_by=context.viewer.id,
            created_at=context.now,
        )
        made = integrations.by_id(connection, integration_id)
        assert made is not None
        return made

    return {"integration": node(await context.services.database.write(work))}


@resolvers.field("Mutation", "deleteIntegration")
async def delete_integration(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Forget an integration that no automation of its entity uses."""
    context = info.context

    def work(connection: Connection) -> None:
        row = usable(connection, context, input["id"])
        _administered(connection, context, row.entity_name)
        integrations.remove(connection, row)

    await context.services.database.write(work)
    return {"success": True}


def _administered(connection: Connection, context: Context, name: str) -> AnyRow:
    """Return an entity whose integrations the viewer may change: a team that he is an admin of, or his own."""
    viewer = context.viewer
    viewer.must_use(name)
    row = users.entity_by_name(connection, name)
    if row is None:
        raise NotFound(f"There is no entity {name!r}.")
    own = not viewer.service_account and teams.role_of(connection, row.id, viewer.id) == "admin"
    if not own and not viewer.admin:
        raise Forbidden(f"Only an admin of team {name!r} may do this.")
    return row


def _check_url(url: str) -> None:
    """Raise `RequestError` unless something can be sent to this URL. It may be a secret, so it is not told."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
        parts = None
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise RequestError("The URL cannot be used. Write https://HOST/PATH, or http://HOST:PORT/PATH.")
    if parts is not None and "@" in parts.netloc:
        raise RequestError("The URL holds a password. Give it as the access token, which is sent as a bearer token.")
