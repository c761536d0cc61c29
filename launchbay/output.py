"""How commands print: tables for people, JSON for scripts."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

FILE_COLUMNS = 500
"""Width of a table that goes into a file or a pipe, where it must not be cut to a screen."""

LAST_COLUMN = 30
"""How much room the last column of a table needs on a screen, which holds sentences and is folded."""

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
    cells = [["" if cell is None else plain(str(cell)) for cell in line] for line in lines]
    console = Console()
    if not console.is_terminal:
        console.width = FILE_COLUMNS
    widths = [max(map(cell_len, column)) for column in zip(headers, *cells, strict=True)]
    room = console.width - sum(widths[:-1]) - 2 * len(widths[:-1])
    if room < min(widths[-1], LAST_COLUMN):
        _print_below(console, headers, cells, widths)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers[:-1]:
        table.add_column(header, no_wrap=True, overflow="fold")
    table.add_column(headers[-1])
    for line in cells:
        table.add_row(*map(Text, line))
    console.print(table)


def _print_below(
    console: Console, headers: Sequence[str], lines: Sequence[Sequence[str]], widths: Sequence[int]
) -> None:
    """Print what stands in the last column below its row: there is no room for it at the side."""

    def row(line: Sequence[str], style: str = "") -> Text:
        padded = (set_cell_size(cell, width) for cell, width in zip(line, widths, strict=True))
        return Text("  ".join(list(padded)[:-1]).rstrip(), style=style)

    console.print(row(headers, "bold"), overflow="fold")
    for line in lines:
        console.print(row(line), overflow="fold")
        if line[-1]:
            console.print(Padding(Text(line[-1]), (0, 0, 0, 4)))


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
