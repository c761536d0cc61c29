"""`launchbay alerts`: what runs have alerted to."""

from collections.abc import Mapping
from typing import Any

import click

from agent.control_plane import ControlPlane
from launchbay.output import ago, json_option, print_json, print_table
from launchbay.wire import default_entity, with_server


@click.command()
@click.option("-e", "--entity", help="Whose runs. Default: the API key's user's.")
@click.option("-n", "--count", default=20, show_default=True, help="How many.")
@json_option
def command(entity: str | None, count: int, as_json: bool) -> None:
    """Show what runs have alerted to (`run.alert`), newest first."""

    async def work(server: ControlPlane) -> list[Mapping[str, Any]]:
        data = await server.ask(
            """query Alerts($entity: String!, $first: Int) { entity(name: $entity) { alerts(first: $first) {
                 title text severity createdAt projectName runName runDisplayName } } }""",
            entity=await default_entity(server, entity),
            first=count,
        )
        return data["entity"]["alerts"]

    found = with_server(work)
    if as_json:
        print_json(found)
        return
    rows = [
        (ago(one["createdAt"]), one["severity"], f"{one['projectName']}/{one['runName']}", one["title"], one["text"])
        for one in found
    ]
    print_table(("AGE", "LEVEL", "RUN", "TITLE", "TEXT"), rows, empty="No alerts.")
