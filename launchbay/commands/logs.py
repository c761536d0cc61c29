"""`launchbay logs`: the output of a launch, also of one that failed before its start or never called `wandb.init`."""

import asyncio
import sys
from collections.abc import AsyncGenerator

import click

from agent.control_plane import ControlPlane
from launchbay.errors import NotThere
from launchbay.items import is_over, item_by_id, item_of, run_path
from launchbay.wire import default_entity, with_server
from protocol.json_types import dig

WAIT_SECONDS = 20.0
PAGE_LINES = 1000


@click.command()
@click.argument("name", metavar="ITEM|RUN")
@click.option("-f", "--follow", is_flag=True, help="Go on until the launch has ended.")
@click.option("-e", "--entity", help="Owner, where RUN names none. Default: the API key's user.")
def command(name: str, follow: bool, entity: str | None) -> None:
    """Print the output of an item's launch, or of a run ([ENTITY/]PROJECT/RUN)."""

    async def work(server: ControlPlane) -> None:
        owner = await default_entity(server, entity)
        item = await item_of(server, name, owner)
        pieces = item_output(server, item["id"], follow) if item else run_output(server, *run_path(name, owner), follow)
        async for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    with_server(work)


async def item_output(server: ControlPlane, item_id: str, follow: bool) -> AsyncGenerator[bytes]:
    """Yield the output of an item's launch; with `follow`, until it has ended."""
    since = 0
    while True:
        piece = await server.request(
            "GET", "/launchbay/item-log", wait=WAIT_SECONDS if follow else 0, item=item_id, since=since
        )
        since += len(piece)
        if piece:
            yield piece
        elif not follow or is_over(await item_by_id(server, item_id)):
            return


async def run_output(server: ControlPlane, entity: str, project: str, run: str, follow: bool) -> AsyncGenerator[bytes]:
    """Yield the console lines of a run that no item started; with `follow`, until it has ended."""
    cursor: str | None = None
    while True:
        data = await server.ask(
            """query RunConsoleLog($entity: String!, $project: String!, $run: String!, $first: Int, $after: String) {
                 project(name: $project, entityName: $entity) {
                   run(name: $run) {
                     state
                     logLines(first: $first, after: $after) {
                       edges { node { line } } pageInfo { endCursor hasNextPage }
                     }
                   }
                 }
               }""",
            entity=entity,
            project=project,
            run=run,
            first=PAGE_LINES,
            after=cursor,
        )
        found = dig(data, "project", "run")
        if found is None:
            raise NotThere(f"There is no run {entity}/{project}/{run}.")
        lines = found["logLines"]
        for edge in lines["edges"]:
            yield edge["node"]["line"].encode() + b"\n"
        cursor = lines["pageInfo"]["endCursor"] or cursor
        if lines["pageInfo"]["hasNextPage"]:
            continue
        if not follow or found["state"] not in {"running", "pending"}:
            return
        await asyncio.sleep(1)
