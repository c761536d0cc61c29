"""The command line: one group, whose commands are loaded when they are asked for.

`launchbay --version` must not pay for the server's or a cloud's imports, so each command names its module and is
imported on use.
"""

from importlib import import_module

import click

from launchbay import __version__
from launchbay.exits import run_command

COMMANDS = {
    "agent": "launchbay.commands.agent",
    "completion": "launchbay.commands.completion",
    "dev": "launchbay.commands.dev",
    "job": "launchbay.commands.job",
    "launch": "launchbay.commands.launch",
    "logs": "launchbay.commands.logs",
    "queue": "launchbay.commands.queue",
    "server": "launchbay.commands.server",
    "status": "launchbay.commands.status",
    "stop": "launchbay.commands.stop",
    "team": "launchbay.commands.team",
    "user": "launchbay.commands.user",
}
"""Command name -> module, which defines it as `command`."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all command names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        module = COMMANDS.get(cmd_name)
        return import_module(module).command if module else None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="launchbay")
def launchbay() -> None:
    """Run machine-learning jobs from a queue: an open launch agent, and the control plane that feeds it."""
    from launchbay.logs import configure_logging

    configure_logging(-1)  # daemons say more; a command's standard output is for its result


def main() -> None:
    """Run the command line; ends the process with the exit code of the cause."""
    run_command(launchbay)
