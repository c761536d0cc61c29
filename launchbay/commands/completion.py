"""`launchbay completion`: shell completion."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell. For bash: eval "$(launchbay completion bash)"."""
    from launchbay.cli import launchbay

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(launchbay, {}, "launchbay", "_LAUNCHBAY_COMPLETE").source())
