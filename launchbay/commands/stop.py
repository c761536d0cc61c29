"""`launchbay stop`: stop a launch, wherever it is on its way."""

import click

from agent.control_plane import ControlPlane
from launchbay.items import item_of, run_path
from launchbay.wire import default_entity, with_server
from protocol.names import run_storage_id


@click.command()
@click.argument("name", metavar="ITEM|RUN")
@click.option("-e", "--entity", help="Owner, where RUN names none. Default: the API key's user.")
def command(name: str, entity: str | None) -> None:
    """Stop an item's launch, or a run ([ENTITY/]PROJECT/RUN).

    A waiting item leaves its queue. A running one is asked politely, and killed after the agent's grace period.
    """

    async def work(server: ControlPlane) -> None:
        owner = await default_entity(server, entity)
        item = await item_of(server, name, owner)
        if item:
            await server.ask(
                """mutation StopRunQueueItem($id: ID!) {
                     stopRunQueueItem(input: {runQueueItemId: $id}) { success }
                   }""",
                id=item["id"],
            )
            click.echo(f"Item {item['id']} is asked to stop.")
        else:
            path = run_path(name, owner)
            storage_id = run_storage_id(*path)
            await server.ask("mutation StopRun($id: ID!) { stopRun(input: {id: $id}) { success } }", id=storage_id)
            click.echo(f"Run {'/'.join(path)} is asked to stop.")

    with_server(work)
