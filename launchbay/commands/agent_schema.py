"""`launchbay agent schema`: the JSON schema of the agent's configuration file."""

import click

from agent.config.schema import schema
from launchbay.output import print_json


@click.command()
def command() -> None:
    """Print the JSON schema of the configuration file, for editors and checks."""
    print_json(schema())
