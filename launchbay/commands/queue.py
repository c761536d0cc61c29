"""`launchbay queue`: run queues, their resource configs and template variables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from agent.control_plane import ControlPlane
from launchbay.errors import NotThere
from launchbay.inputs import declared_schemas, key_values, read_mapping
from launchbay.output import json_option, print_json, print_table
from launchbay.wire import default_entity, with_server
from protocol import templates
from protocol.json_types import Json, dig
from protocol.names import QUEUE_PROJECT
from protocol.resources import RESOURCES, serving_command
from protocol.words import counted

entity_option = click.option("-e", "--entity", help="Owner of the queue. Default: the API key's user.")

_QUEUE_FIELDS = """id name prioritizationMode pendingCount externalLinks
  defaultResourceConfig { resource config templateVariables { name schema } }"""


@click.group()
def command() -> None:
    """Make, list, show, render and delete run queues."""


@command.command()
@click.argument("name")
@entity_option
@click.option(
    "-r",
    "--resource",
    metavar="NAME",
    default="local-process",
    show_default=True,
    help=f"Where its launches run: {', '.join(RESOURCES)}, or a backend of your own.",
)
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The resource block, as YAML or JSON; it may hold {{variables}}.",
)
@click.option(
    "-t",
    "--template-variables",
    "variables_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The variables, as YAML or JSON: {name: {type: integer, default: 1, minimum: 0, maximum: 8}}.",
)
@click.option("--priorities", is_flag=True, help="Let items have priorities (critical, high, medium, low).")
def create(
    name: str,
    entity: str | None,
    resource: str,
    config_file: Path | None,
    variables_file: Path | None,
    priorities: bool,
) -> None:
    """Make queue NAME, or change it."""
    config = read_mapping(config_file) if config_file else {}
    variables = _with_schemas(read_mapping(variables_file) if variables_file else {})

    async def work(server: ControlPlane) -> None:
        owner = await default_entity(server, entity)
        await server.ask(
            """mutation CreateProject($input: UpsertModelInput!) { upsertModel(input: $input) { inserted } }""",
            input={"entityName": owner, "name": QUEUE_PROJECT},
        )
        await server.ask(
            """mutation UpsertRunQueue($input: UpsertRunQueueInput!) { upsertRunQueue(input: $input) { success } }""",
            input={
                "entityName": owner,
                "projectName": QUEUE_PROJECT,
                "queueName": name,
                "resourceType": resource,
                "resourceConfig": json.dumps({"resource_args": {resource: config}}),
                "templateVariables": json.dumps(variables),
                "prioritizationMode": "V0" if priorities else "DISABLED",
                "externalLinks": json.dumps({"links": []}),
            },
        )
        click.echo(f"Queue {owner}/{name} is ready. Serve it with: {serving_command(name, owner, resource)}")

    with_server(work)


@command.command("list")
@entity_option
@json_option
def list_queues(entity: str | None, as_json: bool) -> None:
    """List the queues of an entity."""

    async def work(server: ControlPlane) -> list[Mapping[str, Any]]:
        owner = await default_entity(server, entity)
        data = await server.ask(
            f"""query Queues($entity: String!, $project: String!) {{
                  project(entityName: $entity, name: $project) {{ runQueues {{ {_QUEUE_FIELDS} }} }}
                }}""",
            entity=owner,
            project=QUEUE_PROJECT,
        )
        return data["project"]["runQueues"] if data["project"] else []

    queues = with_server(work)
    if as_json:
        print_json([_described(queue) for queue in queues])
        return
    rows = [
        (queue["name"], _resource(queue), queue["pendingCount"], ", ".join(declared_schemas(queue)) or "-")
        for queue in queues
    ]
    print_table(
        ("QUEUE", "RESOURCE", "WAITING", "VARIABLES"), rows, empty="No queues. Make one: launchbay queue create NAME"
    )


@command.command()
@click.argument("name")
@entity_option
@json_option
def show(name: str, entity: str | None, as_json: bool) -> None:
    """Show queue NAME with its resource config and variables."""
    described = _described(with_server(lambda server: _find(server, entity, name)))
    if as_json:
        print_json(described)
    else:
        click.echo(yaml.safe_dump(described, sort_keys=False).rstrip())


@command.command()
@click.argument("name")
@entity_option
@click.option("-v", "--set-var", "values", multiple=True, help="Value of a template variable: name=value.")
def render(name: str, entity: str | None, values: tuple[str, ...]) -> None:
    """Print the resource config of queue NAME as an item would get it, and start nothing."""
    queue = with_server(lambda server: _find(server, entity, name))
    schemas = declared_schemas(queue)
    variables = templates.parse_variables({key: {"schema": schema} for key, schema in schemas.items()})
    given = templates.resolve_values(variables, key_values(values, schemas))
    config: Json = dig(queue, "defaultResourceConfig", "config") or {}
    click.echo(yaml.safe_dump(templates.render(config, given), sort_keys=False).rstrip())


@command.command()
@click.argument("name")
@entity_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(name: str, entity: str | None, yes: bool) -> None:
    """Delete queue NAME with everything that waits in it."""

    async def work(server: ControlPlane) -> None:
        queue = await _find(server, entity, name)
        if queue["pendingCount"] and not yes:
            click.confirm(f"Delete {name!r} with {counted(queue['pendingCount'], 'waiting item')}?", abort=True)
        await server.ask(
            "mutation DeleteRunQueue($id: ID!) { deleteRunQueues(input: {queueIDs: [$id]}) { success } }",
            id=queue["id"],
        )
        click.echo(f"Queue {name!r} is deleted.")

    with_server(work)


async def _find(server: ControlPlane, entity: str | None, name: str) -> Mapping[str, Any]:
    owner = await default_entity(server, entity)
    data = await server.ask(
        f"""query Queue($entity: String!, $project: String!, $name: String!) {{
              project(entityName: $entity, name: $project) {{ runQueue(name: $name) {{ {_QUEUE_FIELDS} }} }}
            }}""",
        entity=owner,
        project=QUEUE_PROJECT,
        name=name,
    )
    queue = dig(data, "project", "runQueue")
    if queue is None:
        raise NotThere(f"Entity {owner!r} has no queue {name!r}. `launchbay queue list -e {owner}` shows them.")
    return queue


def _with_schemas(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Accept the short form {name: schema} beside the protocol's {name: {"schema": schema}}."""
    return {
        name: value if isinstance(value, dict) and "schema" in value else {"schema": value}
        for name, value in variables.items()
    }


def _resource(queue: Mapping[str, Any]) -> str:
    return dig(queue, "defaultResourceConfig", "resource") or "-"


def _described(queue: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": queue["name"],
        "id": queue["id"],
        "resource": _resource(queue),
        "prioritization_mode": queue["prioritizationMode"],
        "waiting": queue["pendingCount"],
        "config": dig(queue, "defaultResourceConfig", "config") or {},
        "template_variables": declared_schemas(queue),
    }
