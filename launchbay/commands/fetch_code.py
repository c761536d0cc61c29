"""`launchbay fetch-code`: brings the code of one launch into a folder. Agents have it run beside their launches."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

import click

from agent.errors import ControlPlaneUnavailable, LaunchFailed
from agent.fetching.fetch import Order, fetch, read_order
from agent.launch import Cause
from agent.redaction import SECRETS
from backends.base import FETCH_MAY_PASS
from launchbay.exits import FAILED
from protocol.errors import LaunchbayError

TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes looks for the reason. It is there only where somebody looks."""
MESSAGE_CHARS = 1000
"""Four times as many bytes are taken."""


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--tools", type=click.Path(path_type=Path, file_okay=False), help="Where that goes what installs.")
@click.option("--keep-days", type=click.IntRange(1), help="How long folders beside it stay that nobody uses.")
@click.option(
    "--dockerfile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Make FOLDER what an image is built of, by this file.",
)
def command(folder: Path, tools: Path | None, keep_days: int | None, dockerfile: Path | None) -> int:
    """Bring the code of a launch into FOLDER.

    Agents start this where their launches run: what to fetch is in variables of theirs.
    """
    try:
        where = folder.absolute(), tools and tools.absolute()
        order = read_order(*where, os.environ, SystemRandom(), keep_days=keep_days, dockerfile=dockerfile)
        asyncio.run(_fetch(order))
    except LaunchbayError as error:
        is_ours = isinstance(error, ControlPlaneUnavailable) or (
            isinstance(error, LaunchFailed) and error.cause is not Cause.WORKLOAD
        )
        return _failed(str(error), FETCH_MAY_PASS if is_ours else FAILED)
    except OSError as error:
        return _failed(
            f"The code could not be written where the launch runs: {error}. It needs room there, and must be allowed "
            "to write.",
            FETCH_MAY_PASS,
        )
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    return 0


async def _fetch(order: Order) -> None:
    """Do it until we are told to stop, which the first process of a container would not be by itself."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await fetch(order)


def _failed(why: str, code: int) -> int:
    why = SECRETS.text(why)
    click.echo(f"Error: {why}", err=True)
    with suppress(OSError):
        if TERMINATION_LOG.exists():
            TERMINATION_LOG.write_text(why[:MESSAGE_CHARS])
    return code
