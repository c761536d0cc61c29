"""`launchbay job`: the jobs of a project, what they are made of, and which runs used them."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

import click

from agent.control_plane import ControlPlane
from launchbay import jobs
from launchbay.output import ago, json_option, print_json, print_table
from launchbay.wire import default_entity, with_server
from protocol.errors import SpecError
from protocol.names import ArtifactName, parse_job_reference


@click.group()
def command() -> None:
    """List and describe jobs. Make them with the stock client: wandb job create git|code|image PATH."""


@command.command("list")
@click.option("-p", "--project", required=True, envvar="WANDB_PROJECT", help="The project.")
@click.option("-e", "--entity", envvar="WANDB_ENTITY", help="Its owner. Default: the API key's user.")
@json_option
def list_jobs(project: str, entity: str | None, as_json: bool) -> None:
    """List the jobs of a project with their versions."""

    async def work(server: ControlPlane) -> list[dict[str, Any]]:
        return await jobs.list_jobs(server, await default_entity(server, entity), project)

    found = with_server(work)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            f"{job['reference']}:latest",
            _versions(job["versions"]),
            job["creator"],
            ago(job["created"]),
            job["description"],
        )
        for job in found
    ]
    none = "No jobs. Make one: wandb job create code PATH -p PROJECT -n NAME"
    print_table(("JOB", "VERSIONS", "BY", "AGE", "DESCRIPTION"), rows, empty=none)


@command.command()
@click.argument("reference")
@json_option
def describe(reference: str, as_json: bool) -> None:
    """Tell what a job is made of, and which inputs a launch may set. REFERENCE: ENTITY/PROJECT/NAME[:VERSION]."""
    name, _ = _parsed(reference)
    job = with_server(lambda server: jobs.describe(server, name))
    if as_json:
        print_json(job)
        return
    source: dict[str, str] = job["source"]
    lines = {
        "job": job["reference"],
        "aliases": ", ".join(job["aliases"]),
        "description": job["description"],
        **source,
        "entry point": shlex.join(job["entryPoint"]),
        "python": job["python"],
        "created": f"{job['created']} by {job['creator'] or 'somebody'}",
        "by run": job["createdByRun"],
        "versions": _versions(job["versions"]),
        "runs": job["runs"],
        "last used": job["lastUsed"] or "never",
    }
    for key, value in lines.items():
        if value is not None and value != "":
            click.echo(f"{key + ':':14}{value}")
    click.echo()
    inputs = [(each["place"], each["name"], each["type"], _rule(each["rule"])) for each in job["inputs"]]
    print_table(("INPUT OF", "NAME", "TYPE", "RULE"), inputs, empty="No inputs are known.")


@command.command()
@click.argument("reference")
@json_option
def runs(reference: str, as_json: bool) -> None:
    """List the runs that used a job. REFERENCE: ENTITY/PROJECT/NAME for all its versions, with :VERSION for one."""
    name, one_version = _parsed(reference)
    found = with_server(lambda server: jobs.runs_of(server, name, one_version=one_version))
    if as_json:
        print_json(found)
        return
    rows = [(run["run"], run["version"], run["state"], run["user"], ago(run["created"]), run["name"]) for run in found]
    print_table(("RUN", "VERSION", "STATE", "BY", "AGE", "NAME"), rows, empty="No run has used it yet.")


def _parsed(reference: str) -> tuple[ArtifactName, bool]:
    """Read a job's reference, and whether it names a version; without one the latest is meant."""
    one_version = ":" in reference
    try:
        return parse_job_reference(reference if one_version else f"{reference}:latest"), one_version
    except SpecError as error:
        raise click.UsageError(str(error)) from error


def _versions(versions: list[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{each['version']} ({', '.join(each['aliases'])})" if each["aliases"] else str(each["version"])
        for each in versions
    )


def _rule(rule: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {json.dumps(value)}" for key, value in rule.items() if key != "type")
