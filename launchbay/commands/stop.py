"""`launchbay stop`: stop a launch, wherever it is on its way, or an agent."""

import click

from agent.control_plane import ControlPlane
from launchbay.agents import agent_named
from launchbay.items import is_over, item_by_id, item_of, run_path
from launchbay.wire import default_entity, with_server
from protocol.names import run_storage_id


@click.command()
@click.argument("name", metavar="ITEM|RUN|AGENT")
@click.option("-e", "--entity", help="Owner, where the name tells none. Default: the API key's user.")
@click.option("--agent", "is_agent", is_flag=True, help="The name is an agent's: it is to take nothing more, and end.")
def command(name: str, entity: str | None, is_agent: bool) -> None:
    """Stop an item's launch, or a run ([ENTITY/]PROJECT/RUN), or with --agent an agent.

    A waiting item leaves its queue. A running one is asked politely, and killed after the agent's grace period. What
    an agent has running when it ends goes on, and the next agent of the same machine and queues takes it over.
    """

    async def work(server: ControlPlane) -> None:
        owner = await default_entity(server, entity)
        if is_agent:
            agent = await agent_named(server, owner, name)
            await server.ask(
                """mutation StopLaunchAgent($id: ID!) { stopLaunchAgent(input: {launchAgentId: $id}) { success } }""",
                id=agent["id"],
            )
            click.echo(f"Agent {name} is asked to stop.")
            return
        item = await item_of(server, name, owner)
        if item and is_over(item):
            click.echo(f"Item {item['id']} has ended already: {item['state']}.")
        elif item:
            await server.ask(
                """mutation StopRunQueueItem($id: ID!) {
                     stopRunQueueItem(input: {runQueueItemId: $id}) { success }
                   }""",
                id=item["id"],
            )
            item = await item_by_id(server, item["id"])
            # Where its agent is gone, this says what has to be done before anything is stopped.
            click.echo(f"Item {item['id']} is asked to stop. {item['waitingReason'] or ''}".rstrip())
        else:
            path = run_path(name, owner)
            storage_id = run_storage_id(*path)
            await server.ask("mutation StopRun($id: ID!) { stopRun(input: {id: $id}) { success } }", id=storage_id)
            click.echo(f"Run {'/'.join(path)} is asked to stop.")

    with_server(work)
