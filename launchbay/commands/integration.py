"""`launchbay integration`: where automations and alerts are sent, and what came of that."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from agent.control_plane import ControlPlane
from launchbay.errors import NotThere
from launchbay.output import ago, json_option, print_json, print_table
from launchbay.wire import default_entity, with_server

entity_option = click.option("-e", "--entity", help="Whose it is: a team's, or yours. Default: the API key's user.")
alerts_option = click.option("--alerts", is_flag=True, help="Send the alerts of runs there, too.")
_SECRET = click.Path(exists=True, dir_okay=False, path_type=Path)

_FIELDS = """__typename
  ... on GenericWebhookIntegration { id name url: urlEndpoint getsAlerts }
  ... on SlackIntegration { id name: channelName url: teamName getsAlerts }"""


@click.group()
def command() -> None:
    """Make, list and delete webhooks and Slack channels, and show what was sent to them."""


@command.group()
def create() -> None:
    """Make a webhook or a Slack channel."""


@create.command()
@click.argument("name")
@entity_option
@click.option("--url", required=True, help="Where requests are posted to.")
@click.option("--access-token-file", type=_SECRET, help="Holds what is sent along as a bearer token.")
@click.option("--secret-file", type=_SECRET, help="Holds what requests are signed with (X-Wandb-Signature).")
@alerts_option
def webhook(
    name: str,
    entity: str | None,
    url: str,
    access_token_file: Path | None,
    secret_file: Path | None,
    alerts: bool,
) -> None:
    """Make webhook NAME."""
    values = {"name": name, "urlEndpoint": url, "getsAlerts": alerts}
    if access_token_file is not None:
        values["accessToken"] = _secret(access_token_file)
    if secret_file is not None:
        values["secret"] = _secret(secret_file)
    _create("createGenericWebhookIntegration", "CreateGenericWebhookIntegrationInput", entity, values)
    click.echo(f"Webhook {name} is made.")


@create.command()
@click.argument("name")
@entity_option
@click.option(
    "--url-file", type=_SECRET, required=True, help="Holds the URL of an incoming webhook, which is a secret."
)
@alerts_option
def slack(name: str, entity: str | None, url_file: Path, alerts: bool) -> None:
    """Make channel NAME of Slack, or of what takes the same messages, such as Mattermost."""
    values = {"channelName": name, "url": _secret(url_file), "getsAlerts": alerts}
    _create("createSlackIntegration", "CreateSlackIntegrationInput", entity, values)
    click.echo(f"Slack channel {name} is made.")


@command.command("list")
@entity_option
@json_option
def list_integrations(entity: str | None, as_json: bool) -> None:
    """List webhooks and Slack channels."""
    found = with_server(lambda server: _listed(server, entity))
    if as_json:
        print_json(found)
        return
    rows = [(one["name"], one["kind"], "yes" if one["getsAlerts"] else "no", one["url"]) for one in found]
    none = "No integrations. Make one: launchbay integration create webhook NAME --url URL"
    print_table(("NAME", "KIND", "ALERTS", "WHERE"), rows, empty=none)


@command.command()
@click.argument("name")
@entity_option
def delete(name: str, entity: str | None) -> None:
    """Delete webhook or Slack channel NAME."""

    async def work(server: ControlPlane) -> None:
        found = [one["id"] for one in await _listed(server, entity) if one["name"] == name]
        if not found:
            raise NotThere(f"There is no integration {name!r}. `launchbay integration list` shows them.")
        await server.ask(
            "mutation DeleteIntegration($id: ID!) { deleteIntegration(input: {id: $id}) { success } }", id=found[0]
        )

    with_server(work)
    click.echo(f"Integration {name} is deleted.")


@command.command()
@entity_option
@click.option("-n", "--count", default=20, show_default=True, help="How many.")
@json_option
def deliveries(entity: str | None, count: int, as_json: bool) -> None:
    """Show what automations have done and have to do, and which alerts were sent, newest first."""

    async def work(server: ControlPlane) -> list[Mapping[str, Any]]:
        data = await server.ask(
            """query Deliveries($entity: String!, $first: Int) { entity(name: $entity) { deliveries(first: $first) {
                 id automationName integrationName eventType state attempts answer createdAt endedAt } } }""",
            entity=await default_entity(server, entity),
            first=count,
        )
        return data["entity"]["deliveries"]

    found = with_server(work)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            ago(one["createdAt"]),
            one["automationName"] or "alert",
            one["eventType"],
            one["integrationName"] or "-",
            one["state"],
            one["attempts"],
            one["answer"],
        )
        for one in found
    ]
    headers = ("AGE", "AUTOMATION", "EVENT", "SENT TO", "STATE", "ATTEMPTS", "ANSWER")
    print_table(headers, rows, empty="Nothing was sent.")


def _create(mutation: str, kind: str, entity: str | None, values: Mapping[str, Any]) -> None:
    async def work(server: ControlPlane) -> None:
        await server.ask(
            f"mutation CreateIntegration($input: {kind}!) {{ {mutation}(input: $input) {{ __typename }} }}",
            input={"entityName": await default_entity(server, entity), **values},
        )

    with_server(work)


async def _listed(server: ControlPlane, entity: str | None) -> list[Mapping[str, Any]]:
    data = await server.ask(
        f"""query Integrations($entity: String!) {{
              entity(name: $entity) {{ integrations(first: 1000) {{ edges {{ node {{ {_FIELDS} }} }} }} }}
            }}""",
        entity=await default_entity(server, entity),
    )
    nodes = [edge["node"] for edge in data["entity"]["integrations"]["edges"]]
    kinds = {"GenericWebhookIntegration": "webhook", "SlackIntegration": "slack"}
    return [
        {**{key: one[key] for key in ("id", "name", "url", "getsAlerts")}, "kind": kinds[one["__typename"]]}
        for one in nodes
    ]


def _secret(file: Path) -> str:
    text = file.read_text("utf-8").strip()
    if not text:
        raise click.UsageError(f"{file} is empty.")
    return text
