"""`launchbay server`: the control plane."""

import asyncio
import gc
import os
import signal
from pathlib import Path

import click
import uvloop

from agent.observability.service_manager import service_manager
from launchbay.logs import configure_logging
from server.start import ADMIN_KEY_FILE, ServerSettings, running

DATA_DIR = Path.home() / ".local" / "share" / "launchbay" / "server"
GARBAGE_THRESHOLD = 10_000
"""So many more objects than there were make the garbage collector look at the newest; Python's own is 700."""


database_option = click.option(
    "--database-url",
    envvar="LAUNCHBAY_DATABASE_URL",
    metavar="URL",
    help="postgresql://USER@HOST:PORT/NAME; SQLite in the data folder without it. The password belongs into PGPASSWORD "
    "or ~/.pgpass, or the whole URL into LAUNCHBAY_DATABASE_URL.",
)


object_store_option = click.option(
    "--object-store",
    envvar="LAUNCHBAY_OBJECT_STORE",
    metavar="URL",
    help="s3://BUCKET/PREFIX for files and artifacts; the data folder without it. Credentials, region and endpoint are "
    "looked for where AWS programs do: AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL_S3, ...",
)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--data-dir",
    default=DATA_DIR,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Holds the database (SQLite), the files, and the first user's API key (admin-api-key). Server processes that "
    "share a database share this folder too.",
)
@database_option
@object_store_option
@click.option("-v", "--verbose", count=True, help="Say more; twice for debugging.")
def command(
    host: str, port: int, data_dir: Path, database_url: str | None, object_store: str | None, verbose: int
) -> None:
    """Serve the control plane: queues, runs, files and artifacts, for agents and the stock wandb client."""
    configure_logging(verbose)
    uvloop.run(serve(ServerSettings(data_dir, host, port, database_url, object_store)))


async def serve(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with service_manager(os.environ) as manager, running(settings) as url:
        # What stands now stays for ever. To look through all of it for cycles would hold up requests for 0.1 s a time.
        gc.freeze()
        gc.set_threshold(GARBAGE_THRESHOLD)
        manager.ready()
        click.echo(f"Serving on {url}")
        key_file = settings.data_dir / ADMIN_KEY_FILE
        if key_file.exists():  # it may be another server's folder, or put away
            click.echo(f"The first user's API key is in {key_file}")
        await stop.wait()
        manager.stopping()
