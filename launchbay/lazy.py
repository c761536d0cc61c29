"""Commands that are imported when they are used: `launchbay --version` must not pay for the server or a cloud."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group that knows where its commands are, and imports one only when it is needed."""

    def __init__(self, *arguments: Any, modules: Mapping[str, str], **options: Any) -> None:
        """`modules` has by command name its module, which defines it as `command`."""
        super().__init__(*arguments, **options)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all command names."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        module = self._modules.get(cmd_name)
        return import_module(module).command if module else None
