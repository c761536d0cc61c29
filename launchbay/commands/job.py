"""`launchbay job`: the jobs of a project."""

from collections.abc import Mapping
from typing import Any

import click

from agent.control_plane import ControlPlane
from launchbay.output import json_option, print_json, print_table
from launchbay.wire import default_entity, with_server
from protocol.json_types import dig


@click.group()
def command() -> None:
    """List jobs. Make them with the stock client: wandb job create code|image PATH."""


@command.command("list")
@click.option("-p", "--project", required=True, envvar="WANDB_PROJECT", help="The project.")
@click.option("-e", "--entity", envvar="WANDB_ENTITY", help="Its owner. Default: the API key's user.")
@json_option
def list_jobs(project: str, entity: str | None, as_json: bool) -> None:
    """List the jobs of a project with their versions."""

    async def work(server: ControlPlane) -> list[Mapping[str, Any]]:
        owner = await default_entity(server, entity)
        data = await server.ask(
            """query Jobs($entity: String!, $project: String!) {
                 project(entityName: $entity, name: $project) {
                   artifactType(name: "job") {
                     artifactCollections {
                       edges { node { name artifacts { edges { node { versionIndex state aliases { alias } } } } } }
                     }
                   }
                 }
               }""",
            entity=owner,
            project=project,
        )
        edges: list[Any] = dig(data, "project", "artifactType", "artifactCollections", "edges") or []
        return [_described(edge["node"], owner, project) for edge in edges]

    jobs = with_server(work)
    if as_json:
        print_json(jobs)
        return
    rows = [(f"{job['reference']}:latest", ", ".join(job["versions"])) for job in jobs]
    print_table(("JOB", "VERSIONS"), rows, empty="No jobs. Make one: wandb job create code PATH -p PROJECT -n NAME")


def _described(collection: Mapping[str, Any], entity: str, project: str) -> dict[str, Any]:
    versions = [edge["node"] for edge in collection["artifacts"]["edges"] if edge["node"]["state"] == "COMMITTED"]
    return {
        "reference": f"{entity}/{project}/{collection['name']}",
        "versions": [f"v{version['versionIndex']}" for version in versions],
    }
