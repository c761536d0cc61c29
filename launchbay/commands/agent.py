"""`launchbay agent`: the daemon that claims items from queues and runs them."""

import asyncio
import os
from pathlib import Path

import click

from agent import config as agent_config
from agent.run import Server, run_agent
from launchbay import __version__, exits
from launchbay.logs import configure_logging
from launchbay.settings import account


@click.command()
@click.option("-q", "--queue", "queues", multiple=True, help="Queue to serve; may be given several times.")
@click.option("-e", "--entity", help="Owner of the queues. Default: the API key's user.")
@click.option("-j", "--max-jobs", type=int, help="How many launches to hold at once; -1 for no limit. Default: 1.")
@click.option(
    "-c", "--config", "config_file", type=click.Path(dir_okay=False, path_type=Path), help="The YAML configuration."
)
@click.option(
    "--state-dir", type=click.Path(file_okay=False, path_type=Path), help="Holds the journal, launches and caches."
)
@click.option("-v", "--verbose", count=True, help="Say more; twice for debugging.")
def command(
    queues: tuple[str, ...],
    entity: str | None,
    max_jobs: int | None,
    config_file: Path | None,
    state_dir: Path | None,
    verbose: int,
) -> int:
    """Claim items from run queues, and run each of them once.

    SIGTERM ends the agent and leaves what runs running: the next agent with the same state folder adopts it.
    """
    flags = {"queues": queues, "entity": entity, "max_jobs": max_jobs, "state_dir": state_dir}
    config = agent_config.load(config_file, os.environ, flags)
    configure_logging(max(verbose, config.verbosity))
    who = account()
    left = asyncio.run(run_agent(config, Server(who.base_url, who.api_key), version=f"launchbay@{__version__}"))
    if left:
        click.echo(f"{left} launch(es) left running; start the agent again to adopt them.", err=True)
    return exits.DRAINED_WITH_WORK if left else 0
