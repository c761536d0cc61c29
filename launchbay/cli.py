"""The command line: one group, whose commands are loaded when they are asked for."""

import click

from launchbay import __version__
from launchbay.exits import run_command
from launchbay.lazy import LazyGroup

COMMANDS = {
    "agent": "launchbay.commands.agent",
    "alerts": "launchbay.commands.alerts",
    "completion": "launchbay.commands.completion",
    "dev": "launchbay.commands.dev",
    "doctor": "launchbay.commands.doctor",
    "fetch-code": "launchbay.commands.fetch_code",
    "gc": "launchbay.commands.gc",
    "integration": "launchbay.commands.integration",
    "job": "launchbay.commands.job",
    "launch": "launchbay.commands.launch",
    "logs": "launchbay.commands.logs",
    "queue": "launchbay.commands.queue",
    "server": "launchbay.commands.server",
    "status": "launchbay.commands.status",
    "stop": "launchbay.commands.stop",
    "team": "launchbay.commands.team",
    "top": "launchbay.commands.top",
    "user": "launchbay.commands.user",
}
"""Command name -> module, which defines it as `command`."""


@click.group(
    cls=LazyGroup,
    modules=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="launchbay")
def launchbay() -> None:
    """Run machine-learning jobs from a queue: an open launch agent, and the control plane that feeds it."""
    from launchbay.logs import configure_logging

    configure_logging(-1)  # daemons say more; a command's standard output is for its result


def main() -> None:
    """Run the command line; ends the process with the exit code of the cause."""
    run_command(launchbay)
