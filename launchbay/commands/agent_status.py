"""`launchbay agent status`: what the agents on this machine say of themselves. It asks them, not the server."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from agent.observability.status_app import AgentSilent, ask_status
from agent.opening import STATE_ROOT
from launchbay import exits
from launchbay.commands import dev
from launchbay.errors import NotThere
from launchbay.output import ago, json_option, print_json, print_table


@click.command("status")
@click.option("-q", "--queue", "queues", multiple=True, help="Only agents that serve this queue; may be repeated.")
@click.option("-e", "--entity", help="Only agents whose queues this entity owns.")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"The agent of this state folder. Default: all below {STATE_ROOT}, and that of `launchbay dev`.",
)
@json_option
def command(queues: tuple[str, ...], entity: str | None, state_dir: Path | None, as_json: bool) -> int:
    """Show what the agents on this machine hold, and what each launch waits for."""
    folders = [state_dir] if state_dir else [*sorted(STATE_ROOT.glob("agent-*")), dev.agent_dir(dev.DATA_DIR)]
    answers, silent = asyncio.run(_ask(folders))
    agents = [
        agent
        for agent in answers
        if entity in {None, agent["entity"]} and set(queues) <= {queue["name"] for queue in agent["queues"]}
    ]
    for problem in silent:
        click.secho(f"Error: {problem}", err=True, fg="red")
    if not agents and not silent:
        if answers:
            names = ", ".join(agent["name"] for agent in answers)
            raise NotThere(f"No agent on this machine serves that. There are: {names}.")
        where = state_dir or f"any folder below {STATE_ROOT} (--state-dir names another)"
        raise NotThere(f"No agent of this user runs on this machine in {where}.")
    if as_json:
        print_json(agents)
    else:
        for number, agent in enumerate(agents):
            if number:
                click.echo()
            _print(agent)
    return exits.FAILED if silent else 0


async def _ask(folders: list[Path]) -> tuple[list[dict[str, Any]], list[AgentSilent]]:
    """Return what agents answer, and what there is to say of those that do not."""
    answers: list[dict[str, Any]] = []
    silent: list[AgentSilent] = []

    async def ask(folder: Path) -> None:
        try:
            if answer := await ask_status(folder):
                answers.append(answer)
        except AgentSilent as error:
            silent.append(error)

    await asyncio.gather(*(ask(folder) for folder in folders))
    return sorted(answers, key=lambda answer: answer["name"]), silent


def _print(agent: Mapping[str, Any]) -> None:
    limits = agent["limits"]
    places = "no limit" if limits["max_jobs"] == -1 else f"of {limits['max_jobs']}"
    click.echo(f"{agent['name']} ({agent['version']}) of {agent['entity']}, up for {ago(agent['started_at'])}")
    click.echo(f"{agent['problem'] or 'ready'}; jobs: {agent['jobs']} ({places}), schedulers: {agent['schedulers']}")
    click.echo()
    print_table(
        ("QUEUE", "JOBS", "POLLED", "STATE"),
        [(queue["name"], queue["jobs"], _polled(queue), _state(agent, queue)) for queue in agent["queues"]],
        empty="It serves no queue.",
    )
    click.echo()
    print_table(
        ("ITEM", "QUEUE", "ATTEMPT", "RUN", "STAGE", "SINCE", "GPUS", "WAITS FOR"),
        [
            (
                launch["item"],
                launch["queue"],
                launch["attempt"],
                launch["run"],
                "stopping" if launch["stop"] and launch["stage"] != "ended" else launch["stage"],
                ago(launch["since"]),
                ",".join(launch["gpus"]),
                launch["waits_for"],
            )
            for launch in agent["launches"]
        ],
        empty="It holds no launch.",
    )


def _polled(queue: Mapping[str, Any]) -> str:
    """Say for how long the server has been asked, or else when it last answered: a poll waits for an item."""
    if since := queue.get("polling_since"):  # agents of before do not tell
        return f"now, for {ago(since)}"
    return f"{ago(queue['polled_at'])} ago" if queue["polled_at"] else "never"


def _state(agent: Mapping[str, Any], queue: Mapping[str, Any]) -> str:
    return "draining" if agent["draining"] else queue["full"] or "claiming"
