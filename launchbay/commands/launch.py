"""`launchbay launch`: push a job to a queue, with the flags of `wandb launch`."""

import asyncio
import json
import shlex
from collections.abc import Mapping
from typing import Any

import click

from agent.control_plane import ControlPlane
from launchbay import exits
from launchbay.inputs import declared_schemas, key_values, read_mapping
from launchbay.items import is_over, item_by_id
from launchbay.jobs import check_is_there
from launchbay.output import json_option, print_json
from launchbay.wire import default_entity, with_server
from protocol.errors import SpecError
from protocol.json_read import Reader
from protocol.json_types import dig
from protocol.names import QUEUE_PROJECT, ArtifactName, parse_job_reference

PRIORITIES = {"critical": 0, "high": 1, "medium": 2, "low": 3}
POLL_SECONDS = 0.5


@click.command()
@click.option("-j", "--job", help="The job: ENTITY/PROJECT/NAME:ALIAS.")
@click.option("-d", "--docker-image", help="An image to run instead of a job.")
@click.option("-q", "--queue", required=True, help="The queue.")
@click.option("-e", "--entity", help="Owner of queue and run. Default: the API key's user.")
@click.option("-p", "--project", help="Project of the run. Default: the job's project.")
@click.option("--name", envvar="WANDB_NAME", help="Display name of the run.")
@click.option("-E", "--entry-point", help="Replaces the job's command.")
@click.option("-c", "--config", help="The launch spec to start from: JSON text, or a JSON or YAML file.")
@click.option(
    "-R", "--resource-args", help="Overrides of the queue's resource config, as {RESOURCE: {...}}: JSON text or a file."
)
@click.option("-v", "--set-var", "values", multiple=True, help="Value of a template variable: name=value.")
@click.option("-P", "--priority", type=click.Choice(list(PRIORITIES)), help="Needs a queue with priorities.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit code 7 if the launch did not finish well.")
@json_option
def command(
    job: str | None,
    docker_image: str | None,
    queue: str,
    entity: str | None,
    project: str | None,
    name: str | None,
    entry_point: str | None,
    config: str | None,
    resource_args: str | None,
    values: tuple[str, ...],
    priority: str | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Push one launch to a queue and print its item."""
    spec = read_mapping(config) if config else {}
    try:
        named = _take_in(spec, job, docker_image, entry_point)
    except SpecError as error:
        raise click.UsageError(str(error)) from error
    if name:
        spec["name"] = name
    if resource_args:
        spec["resource_args"] = read_mapping(resource_args)

    async def push(server: ControlPlane) -> Mapping[str, Any]:
        owner = await default_entity(server, entity)
        spec.setdefault("entity", owner)
        spec["project"] = project or spec.get("project") or _project_of(named)
        if named:
            await check_is_there(server, named)
        schemas = await _schemas(server, owner, queue) if values else {}
        given = {**spec.pop("template_variables"), **key_values(values, schemas)}
        data = await server.ask(
            """mutation PushToRunQueueByName($input: PushToRunQueueByNameInput!) {
                 pushToRunQueueByName(input: $input) { runQueueItemId }
               }""",
            input={
                "entityName": owner,
                "projectName": QUEUE_PROJECT,
                "queueName": queue,
                "runSpec": json.dumps(spec),
                **({"priority": PRIORITIES[priority]} if priority else {}),
                **({"templateVariableValues": json.dumps(given)} if given else {}),
            },
        )
        item_id = data["pushToRunQueueByName"]["runQueueItemId"]
        return await item_by_id(server, item_id)

    async def work(server: ControlPlane) -> Mapping[str, Any]:
        item = await push(server)
        return await _ended(server, item, quiet=as_json) if wait else item

    item = with_server(work)
    if as_json:
        print_json(item)
    elif wait:
        click.echo(". ".join(filter(None, (f"Item {item['id']}: {item['state']}", dig(item, "error", "message")))))
    else:
        click.echo(f"Queued as item {item['id']}. Follow it with: launchbay logs -f {item['id']}")
    return exits.RUN_FAILED if wait and item["state"] != "FINISHED" else 0


async def _ended(server: ControlPlane, item: Mapping[str, Any], *, quiet: bool) -> Mapping[str, Any]:
    """Wait until nothing more will happen to an item, saying what it waits for."""
    said = ""
    while not is_over(item):
        state = item["waitingReason"] or f"It is {item['state'].lower()}."
        if not quiet and state != said:
            said = state
            click.echo(said, err=True)
        await asyncio.sleep(POLL_SECONDS)
        item = await item_by_id(server, item["id"])
    return item


def _take_in(
    spec: dict[str, Any], job: str | None, docker_image: str | None, entry_point: str | None
) -> ArtifactName | None:
    """Put into a launch spec what it is to run; returns the job, if it is one. Raises `SpecError`."""
    read = Reader(spec, SpecError)
    for key in ("docker", "git", "overrides", "template_variables"):
        spec[key] = dict(read.object(key))
    if job:
        spec["job"] = job
    if docker_image:
        spec["docker"]["docker_image"] = docker_image
    if entry_point:
        try:
            spec["overrides"]["entry_point"] = shlex.split(entry_point)
        except ValueError as error:
            raise SpecError(f"The entry point cannot be read: {error}.") from error
    reference = read.text("job")
    if sum(map(bool, (reference, read.inner("docker").text("docker_image"), read.text("uri")))) != 1:
        raise SpecError("Name exactly one of a job (-j) and an image (-d).")
    return parse_job_reference(reference) if reference else None


def _project_of(job: ArtifactName | None) -> str:
    if job is None:
        raise click.UsageError("Name the run's project with -p, or the job as ENTITY/PROJECT/NAME:ALIAS.")
    return job.project


async def _schemas(server: ControlPlane, entity: str, queue: str) -> dict[str, Any]:
    data = await server.ask(
        """query QueueVariables($entity: String!, $project: String!, $name: String!) {
             project(entityName: $entity, name: $project) {
               runQueue(name: $name) { defaultResourceConfig { templateVariables { name schema } } }
             }
           }""",
        entity=entity,
        project=QUEUE_PROJECT,
        name=queue,
    )
    return declared_schemas(dig(data, "project", "runQueue"))
