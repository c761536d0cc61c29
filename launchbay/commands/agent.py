"""`launchbay agent`: the daemon that claims items from queues and runs them, and what is asked of it."""

import asyncio
import sys
from pathlib import Path
from typing import Any, TextIO

import click
import structlog
from click.core import ParameterSource

from agent.config.file import with_queues
from agent.errors import ConfigError
from launchbay import __version__, exits
from launchbay.agent_config import Given, as_yaml, at_home, check_usable, configuration_options, plain
from launchbay.lazy import LazyGroup
from launchbay.logs import configure_logging
from launchbay.output import json_option, print_json
from launchbay.settings import account
from protocol.words import counted

COMMANDS = {
    "schema": "launchbay.commands.agent_schema",
    "status": "launchbay.commands.agent_status",
}

log = structlog.get_logger(__name__)


@click.group(cls=LazyGroup, modules=COMMANDS, invoke_without_command=True)
@configuration_options
@click.option(
    "-l",
    "--log-file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Append the agent's log to this file; - is standard output. Default: standard error.",
)
@click.option("-u", "--url", hidden=True, help="As with the stock agent: not supported.")
@click.option("--check", is_flag=True, help="Print the configuration that the agent would have, and end.")
@json_option
@click.pass_context
def command(
    context: click.Context, log_file: Path | None, url: str | None, check: bool, as_json: bool, **given: Any
) -> int:
    """Claim items from run queues, and run each of them once.

    SIGTERM ends the agent and leaves what runs running: the next agent with the same state folder adopts it. SIGHUP,
    or a change of its file, makes it read its configuration again.
    """
    if context.invoked_subcommand:
        _refuse_options(context)
        return 0
    if url is not None:
        raise click.UsageError("--url is not supported. Name the queues with -q, and the server with WANDB_BASE_URL.")
    if check:
        return _check(Given(**given), as_json=as_json)
    if as_json:
        raise click.UsageError("--json goes with --check.")
    return _run(Given(**given), _log_stream(log_file))


def _log_stream(file: Path | None) -> TextIO | None:
    """Open where the log goes, for as long as the process lives; None is standard error."""
    if file is None or str(file) == "-":
        return sys.stdout if file else None
    try:
        return at_home(file).open("a", encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"The log file {file} cannot be written: {error.strerror}.") from error


def _run(given: Given, log_stream: TextIO | None) -> int:
    from agent.opening import Server
    from agent.run import Reload, run_agent  # the daemon's libraries are not for the other commands to load
    from agent.signals import do_not_listen

    loaded = with_queues(given.read())
    configure_logging(loaded.config.verbosity, log_stream)
    for warning in loaded.warnings:
        log.warning(warning)
    who = account()
    server = Server(who.base_url, who.api_key)
    reload = Reload(given.load, given.path)

    try:
        departure = asyncio.run(run_agent(loaded.config, server, version=f"launchbay@{__version__}", reload=reload))
    finally:
        do_not_listen()  # a signal that comes now must not take the exit code away
    if departure.left:
        click.echo(
            f"{counted(departure.left, 'launch', 'launches')} left running, for the next start of the agent to adopt.",
            err=True,
        )
        return exits.DRAINED_WITH_WORK
    if departure.stopped:
        click.echo(f"Stopped {counted(departure.stopped, 'launch', 'launches')}.", err=True)
        return exits.STOPPED_WORK
    return 0


def _check(given: Given, *, as_json: bool) -> int:
    try:
        loaded = with_queues(given.read())
        check_usable(loaded.config)
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"valid": False, "error": str(error)})
        return exits.FAILED
    if as_json:
        print_json(
            {
                "valid": True,
                "config": plain(loaded.config),
                "origins": dict(loaded.origins),
                "warnings": list(loaded.warnings),
            }
        )
        return 0
    for line in as_yaml(loaded):
        click.echo(line)
    for warning in loaded.warnings:
        click.secho(f"Warning: {warning}", err=True, fg="yellow")
    return 0


def _refuse_options(context: click.Context) -> None:
    """An option before a subcommand's name would be silently ignored."""
    for parameter in context.command.params:
        if parameter.name and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            sub = f"{context.command_path} {context.invoked_subcommand}"
            raise click.UsageError(
                f"{parameter.opts[0]} is an option of `{context.command_path}` itself. The options of `{sub}` stand "
                f"behind its name; see: {sub} --help"
            )
