"""`launchbay status`: queues, items and agents, and why each waiting item waits."""

from collections.abc import Mapping
from typing import Any

import click

from agent.control_plane import ControlPlane
from launchbay.agents import agents_of, shown_status
from launchbay.items import queues_with_items, shown_job, shown_reason
from launchbay.output import ago, json_option, print_json, print_table
from launchbay.wire import default_entity, with_server


@click.command()
@click.option("-e", "--entity", help="Owner of the queues. Default: the API key's user.")
@click.option("-n", "--items", "count", default=20, show_default=True, help="How many items per queue.")
@json_option
def command(entity: str | None, count: int, as_json: bool) -> None:
    """Show queues, agents and the newest items, and why each waiting item waits."""

    async def work(server: ControlPlane) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        owner = await default_entity(server, entity)
        return await queues_with_items(server, owner, count), await agents_of(server, owner)

    queues, agents = with_server(work)
    if as_json:
        print_json({"queues": [_flat(queue) for queue in queues], "agents": agents})
        return
    print_table(
        ("AGENT", "HOST", "STATUS", "SEEN"),
        [(agent["name"], agent["hostname"], shown_status(agent), ago(agent["heartbeatAt"])) for agent in agents],
        empty="No agents. Start one: launchbay agent -q QUEUE",
    )
    click.echo()
    print_table(
        ("QUEUE", "WAITING"),
        [(queue["name"], queue["pendingCount"]) for queue in queues],
        empty="No queues. Make one: launchbay queue create QUEUE",
    )
    click.echo()
    rows = [
        (
            item["id"],
            queue["name"],
            item["state"],
            ago(item["createdAt"]),
            shown_job(item),
            item["associatedRunId"],
            shown_reason(item),
        )
        for queue in queues
        for item in _flat(queue)["items"]
    ]
    print_table(("ITEM", "QUEUE", "STATE", "AGE", "JOB", "RUN", "WHY"), rows, empty="No items.")


def _flat(queue: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": queue["name"],
        "waiting": queue["pendingCount"],
        "items": [edge["node"] for edge in queue["runQueueItems"]["edges"]],
    }
