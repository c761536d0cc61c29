"""`launchbay gc`: frees space at once, on the server's own machine."""

import asyncio
from pathlib import Path

import click

from launchbay.commands.server import database_option, object_store_option
from launchbay.commands.user import check_data_dir, data_dir_option
from launchbay.errors import NotThere
from server import garbage
from server.start import OBJECTS_FOLDER, opened


@click.command()
@click.option(
    "--at-once",
    is_flag=True,
    help="Also what was deleted within the last day, whoever is still downloading it.",
)
@data_dir_option
@database_option
@object_store_option
def command(at_once: bool, data_dir: Path, database_url: str | None, object_store: str | None) -> None:
    """Free the space of deleted versions, runs and files, and of uploads that were given up.

    A server does so by itself, every hour. Works on the server's database and object store themselves, also while the
    server runs.
    """
    check_data_dir(data_dir)
    if object_store is None and not (data_dir / OBJECTS_FOLDER).exists():
        raise NotThere(f"The objects of the server on {data_dir} are in a bucket. Name it: --object-store s3://BUCKET")
    freed = asyncio.run(_collect(data_dir, database_url, object_store, 0 if at_once else garbage.GRACE_SECONDS))
    click.echo(f"Removed {freed.objects} objects ({freed.size_bytes / 2**20:.1f} MiB without manifests)")
    if freed.unfinished:
        click.echo(f"and what was left of {freed.unfinished} uploads that broke off")


async def _collect(
    data_dir: Path, database_url: str | None, object_store: str | None, grace_seconds: float
) -> garbage.Freed:
    async with opened(data_dir, database_url, object_store) as services:
        return await garbage.collect(services, grace_seconds)
