"""`launchbay top`: agents, queues and items, live on a terminal."""

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneUnavailable
from launchbay.agents import agents_of, shown_status
from launchbay.items import ITEM_FIELDS, shown_job, shown_reason
from launchbay.output import LAST_COLUMN, ago, plain, print_table
from launchbay.wire import default_entity, with_server
from protocol.json_types import dig
from protocol.names import QUEUE_PROJECT
from protocol.states import ItemState

MOST_ITEMS = 50
"""How many items of each queue and kind are asked for: more than a screen has room for."""
WAITING = [ItemState.PENDING]
HELD = [ItemState.LEASED, ItemState.CLAIMED, ItemState.RUNNING]
OVER = [state for state in ItemState if state.is_ended]
COLORS = {ItemState.RUNNING: "green", ItemState.LEASED: "cyan", ItemState.CLAIMED: "cyan", ItemState.PENDING: "yellow"}
AGENT_COLUMNS = ("AGENT", "HOST", "STATUS", "SEEN")
QUEUE_COLUMNS = ("QUEUE", "WAITING", "HELD")
ITEM_COLUMNS = ("ITEM", "QUEUE", "STATE", "AGE", "JOB", "RUN", "AGENT", "WHY")


@dataclass(frozen=True, slots=True)
class View:
    """What there was to see at one moment."""

    moment: datetime
    entity: str
    agents: Sequence[Mapping[str, Any]]
    queues: Sequence[Mapping[str, Any]]
    """Each with its items as `held`, `waiting` and `over`, newest first."""
    problem: str = ""
    """Why there was nothing newer to see."""


@click.command()
@click.option("-e", "--entity", help="Owner of the queues. Default: the API key's user.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds between two looks."
)
def command(entity: str | None, interval: float) -> None:
    """Watch agents, queues and items; q or Ctrl-C ends it. Into a file or a pipe it prints the items, once."""

    async def work(server: ControlPlane) -> None:
        view = await _look(server, await default_entity(server, entity))
        console = Console()
        if console.is_terminal:
            await _watch(server, view, interval, console)
        else:
            print_table(ITEM_COLUMNS, _item_rows(view), empty="No items.")

    with_server(work)


def render(view: View) -> Group:
    """Return what is shown of a view. The screen cuts off what does not fit, so what matters comes first."""
    title = Text.assemble(
        ("Launchbay", "bold"), f"  {plain(view.entity)}  {view.moment.astimezone():%H:%M:%S}  ", ("q ends", "dim")
    )
    if view.problem:
        title.append(f"\n{plain(view.problem)}", "red")
    agents = [
        (agent["name"], agent["hostname"], shown_status(agent), ago(agent["heartbeatAt"])) for agent in view.agents
    ]
    queues = [(queue["name"], str(queue["pendingCount"]), _at_least(queue["held"]["edges"])) for queue in view.queues]
    nothing = Text()
    return Group(
        title,
        nothing,
        _table(AGENT_COLUMNS, agents, lambda row: "red" if row[2] == "SILENT" else ""),
        nothing,
        _table(QUEUE_COLUMNS, queues),
        nothing,
        _Items(_item_rows(view)),
    )


async def _look(server: ControlPlane, entity: str) -> View:
    fields = f"edges {{ node {{ {ITEM_FIELDS} }} }}"
    data = await server.ask(
        f"""query Top(
              $entity: String!, $project: String!, $first: Int!, $held: [String!], $waiting: [String!], $over: [String!]
            ) {{
              project(entityName: $entity, name: $project) {{
                runQueues {{
                  name pendingCount
                  held: runQueueItems(first: $first, states: $held) {{ {fields} }}
                  waiting: runQueueItems(first: $first, states: $waiting) {{ {fields} }}
                  over: runQueueItems(first: $first, states: $over) {{ {fields} }}
                }}
              }}
            }}""",
        entity=entity,
        project=QUEUE_PROJECT,
        first=MOST_ITEMS,
        held=HELD,
        waiting=WAITING,
        over=OVER,
    )
    queues: list[Mapping[str, Any]] = data["project"]["runQueues"] if data["project"] else []
    return View(datetime.now(UTC), entity, await agents_of(server, entity), queues)


async def _watch(server: ControlPlane, view: View, interval: float, console: Console) -> None:
    """Show one view after the other until the user has seen enough."""
    enough = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, enough.set)
    with _on_key("q", enough.set), Live(render(view), console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        showing = asyncio.create_task(_show(server, view, interval, live))
        stopping = asyncio.create_task(enough.wait())
        try:
            await asyncio.wait({showing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            showing.cancel()
            await asyncio.wait({showing, stopping})
    if not showing.cancelled():
        showing.result()  # it ends by an error alone


async def _show(server: ControlPlane, view: View, interval: float, live: Live) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            view = await _look(server, view.entity)
        except (ControlPlaneUnavailable, TimeoutError) as error:
            view = replace(view, problem=str(error) or "The server does not answer.")
        live.update(render(view), refresh=True)


@contextmanager
def _on_key(key: str, call: Callable[[], object]) -> Generator[None]:
    """Call when a key is pressed on the terminal while the block runs. Without a terminal there are no keys."""
    if not sys.stdin.isatty():
        yield
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def read() -> None:
        typed = os.read(terminal, 64)
        if not typed:
            loop.remove_reader(terminal)  # it was closed
        elif key.encode() in typed:
            call()

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _item_rows(view: View) -> list[tuple[str, ...]]:
    """Return the items as rows: those that agents hold, those that wait, and those that are over."""
    return [
        (
            item["id"],
            queue["name"],
            item["state"],
            ago(item["createdAt"]),
            shown_job(item),
            item["associatedRunId"] or "",
            dig(item, "agent", "name") or "",
            shown_reason(item),
        )
        for kind in ("held", "waiting", "over")
        for queue in view.queues
        for item in (edge["node"] for edge in queue[kind]["edges"])
    ]


@dataclass(frozen=True, slots=True)
class _Items:
    """The items, each with its reason at its side, or below it where there is no room for sentences."""

    rows: Sequence[tuple[str, ...]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw them for the screen as it is now."""
        *others, reasons = [max(map(cell_len, column)) for column in zip(ITEM_COLUMNS, *self.rows, strict=True)]
        if options.max_width - sum(others) - 2 * len(others) >= min(reasons, LAST_COLUMN):
            yield self._table(ITEM_COLUMNS, self.rows)
            return
        table = self._table(ITEM_COLUMNS[:-1], [row[:-1] for row in self.rows])
        whys = ("", *(row[-1] for row in self.rows))
        for line, why in zip(console.render_lines(table, options), whys, strict=True):
            yield Segments([*line, Segment.line()])
            if why:
                yield Padding(Text(plain(why), no_wrap=True, overflow="ellipsis"), (0, 0, 0, 4))

    @staticmethod
    def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
        whole = ("ITEM", "STATE", "AGE", "RUN")
        return _table(columns, rows, lambda row: _color(ItemState(row[2])), whole)


def _table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    style: Callable[[Sequence[str]], str] = lambda _: "",
    whole: Sequence[str] = (),
) -> Table:
    """Return a table of one line for each row. Where there is no room, all columns but the whole ones are cut."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for column in columns:
        # Rich makes columns narrower whose cells may wrap, the widest first; the cells themselves say that they do not.
        table.add_column(column, no_wrap=column in whole)
    for row in rows:
        table.add_row(*(Text(plain(cell), no_wrap=True, overflow="ellipsis") for cell in row), style=style(row))
    return table


def _color(state: ItemState) -> str:
    return COLORS.get(state, "dim" if state is ItemState.FINISHED else "red")


def _at_least(edges: Sequence[object]) -> str:
    return f"{len(edges)}{'+' if len(edges) == MOST_ITEMS else ''}"
