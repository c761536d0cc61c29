"""How commands print: tables for people, JSON for scripts."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

FILE_COLUMNS = 500
"""Width of a table that goes into a file or a pipe, where it must not be cut to a screen."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows as a table, or the given sentence if there are none."""
    lines = list(rows)
    if not lines:
        click.echo(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers[:-1]:
        table.add_column(header, no_wrap=True, overflow="fold")
    table.add_column(headers[-1])
    for line in lines:
        table.add_row(*("" if cell is None else Text(plain(str(cell))) for cell in line))
    console = Console()
    if not console.is_terminal:
        console.width = FILE_COLUMNS
    console.print(table)


def plain(text: str) -> str:
    """Return a text without what a terminal would take for an order: other people's words are in tables."""
    return "".join(character if character.isprintable() else " " for character in text)


def ago(moment: str | None, now: datetime | None = None) -> str:
    """Return how long ago an ISO time was, in one unit: `5s`, `12m`, `3h`, `2d`."""
    if moment is None:
        return ""
    then = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    seconds = int(((now or datetime.now(UTC)) - then).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(seconds, 0)}s"
