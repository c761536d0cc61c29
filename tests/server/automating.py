"""What tests of automations do again and again: make a webhook and automations, have what is due sent, read of it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from server.automations.sending import Sender
from server.automations.watching import Watcher
from server.context import Services
from tests.server.conftest import Client

TRIGGER = """id name description enabled
  scope { ... on Project { id } ... on Entity { id } ... on ArtifactSequence { id } ... on ArtifactPortfolio { id } }
  triggeringCondition { ... on FilterEventTriggeringCondition { eventType filter } }
  triggeredAction { __typename ... on GenericWebhookTriggeredAction { requestPayload } }"""
CREATE = f"""mutation($input: CreateFilterTriggerInput!) {{
  createFilterTrigger(input: $input) {{ trigger {{ {TRIGGER} }} }}
}}"""
UPDATE = f"""mutation($input: UpdateFilterTriggerInput!) {{
  updateFilterTrigger(input: $input) {{ trigger {{ {TRIGGER} }} }}
}}"""
DELETE = "mutation($id: ID!) { deleteTrigger(input: {triggerID: $id}) { success } }"
CREATE_WEBHOOK = """mutation($input: CreateGenericWebhookIntegrationInput!) {
  createGenericWebhookIntegration(input: $input) { integration { ... on GenericWebhookIntegration { id } } }
}"""
CREATE_SLACK = """mutation($input: CreateSlackIntegrationInput!) {
  createSlackIntegration(input: $input) { integration { ... on SlackIntegration { id teamName channelName } } }
}"""
DELIVERIES = """query($entity: String!) { entity(name: $entity) { deliveries {
  automationName integrationName eventType state attempts answer } } }"""
ALL = '{"$or": [{"$and": []}]}'
"""The filter of artifacts that the client sends if it is given none."""


@dataclass
class Receiver:
    """Takes requests, and answers with the statuses that it is given, and then with 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list[int])
    bodies: list[Any] = field(default_factory=list[Any])
    raw: list[bytes] = field(default_factory=list[bytes])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    async def take(self, request: web.Request) -> web.Response:
        """Keep a request."""
        self.raw.append(await request.read())
        self.bodies.append(json.loads(self.raw[-1]))
        self.headers.append(dict(request.headers))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200, headers={"Location": self.url})

    def taken(self) -> list[Any]:
        """Return what has come since the last time."""
        bodies, self.bodies = self.bodies, []
        return bodies


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    """Run a receiver of webhooks."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver


async def make_webhook(client: Client, url: str, name: str = "ci", **values: Any) -> str:
    """Make a webhook of the first user's; returns its id."""
    given = {"entityName": "admin", "name": name, "urlEndpoint": url, **values}
    return (await client.ask(CREATE_WEBHOOK, input=given))["createGenericWebhookIntegration"]["integration"]["id"]


def webhook(integration: str, payload: Any = None) -> dict[str, Any]:
    """Return the part of an automation that sends to a webhook."""
    text = None if payload is None else json.dumps(payload)
    config = {"genericWebhookActionInput": {"integrationID": integration, "requestPayload": text}}
    return {"triggeredActionType": "GENERIC_WEBHOOK", "triggeredActionConfig": config}


def in_project(wire_id: str) -> dict[str, Any]:
    """Return the part of an automation that says that it acts in a project."""
    return {"scopeType": "PROJECT", "scopeID": wire_id}


async def automate(client: Client, name: str, event: str, wanted: str, **values: Any) -> dict[str, Any]:
    """Make an automation; it does nothing unless something is said."""
    nothing = {"triggeredActionType": "NO_OP", "triggeredActionConfig": {"noOpActionInput": {"noOp": True}}}
    given = {"name": name, "enabled": True, "triggeringEventType": event, "eventFilter": wanted, **nothing, **values}
    return (await client.ask(CREATE, input=given))["createFilterTrigger"]["trigger"]


async def project_id(client: Client, name: str = "p", entity: str = "admin") -> str:
    """Return the id of a project, which is made if it is not there."""
    mutation = "mutation($input: UpsertModelInput!) { upsertModel(input: $input) { project { id } } }"
    return (await client.ask(mutation, input={"entityName": entity, "name": name}))["upsertModel"]["project"]["id"]


async def send_due(services: Services) -> None:
    """Look at runs, and send what is due."""
    await Watcher(services).look()
    async with Sender(services) as sender:
        await sender.start_due()
        await asyncio.gather(*sender._on_its_way)


async def deliveries(client: Client, entity: str = "admin") -> list[dict[str, Any]]:
    """Return what was sent, or is to be, oldest first."""
    return (await client.ask(DELIVERIES, entity=entity))["entity"]["deliveries"][::-1]


async def happened(client: Client) -> list[tuple[str, str]]:
    """Return by automation which events it has seen, oldest first."""
    return [(each["automationName"], each["eventType"]) for each in await deliveries(client)]
