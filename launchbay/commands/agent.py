"""`launchbay agent`: the daemon that claims items from queues and runs them, and what is asked of it."""

import asyncio
from typing import Any

import click
import structlog
from click.core import ParameterSource

from agent.config.file import with_queues
from agent.errors import ConfigError
from launchbay import __version__, exits
from launchbay.agent_config import Given, as_yaml, check_usable, configuration_options, plain
from launchbay.lazy import LazyGroup
from launchbay.logs import configure_logging
from launchbay.output import json_option, print_json
from launchbay.settings import account

COMMANDS = {
    "schema": "launchbay.commands.agent_schema",
    "status": "launchbay.commands.agent_status",
}

log = structlog.get_logger(__name__)


@click.group(cls=LazyGroup, modules=COMMANDS, invoke_without_command=True)
@configuration_options
@click.option("--check", is_flag=True, help="Print the configuration that the agent would have, and end.")
@json_option
@click.pass_context
def command(context: click.Context, check: bool, as_json: bool, **given: Any) -> int:
    """Claim items from run queues, and run each of them once.

    SIGTERM ends the agent and leaves what runs running: the next agent with the same state folder adopts it. SIGHUP,
    or a change of its file, makes it read its configuration again.
    """
    if context.invoked_subcommand:
        _refuse_options(context)
        return 0
    if check:
        return _check(Given(**given), as_json=as_json)
    if as_json:
        raise click.UsageError("--json goes with --check.")
    return _run(Given(**given))


def _run(given: Given) -> int:
    from agent.opening import Server
    from agent.run import Reload, run_agent  # the daemon's libraries are not for the other commands to load

    loaded = with_queues(given.read())
    configure_logging(loaded.config.verbosity)
    for warning in loaded.warnings:
        log.warning(warning)
    who = account()
    server = Server(who.base_url, who.api_key)
    reload = Reload(given.load, given.path)
    departure = asyncio.run(run_agent(loaded.config, server, version=f"launchbay@{__version__}", reload=reload))
    if departure.left:
        click.echo(f"{departure.left} launch(es) left running; start the agent again to adopt them.", err=True)
        return exits.DRAINED_WITH_WORK
    if departure.stopped:
        click.echo(f"{departure.stopped} launch(es) were stopped.", err=True)
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
