"""Agents of sweeps: registered, asked how they are, told what to do."""

import json
from typing import Any

from sqlalchemy import Connection

from protocol import names
from protocol.json_types import JsonObject
from server import ids, pushing
from server.context import Context
from server.errors import NotFound
from server.graphql import Info, Resolvers
from server.resolvers import runs as run_resolvers
from server.resolvers.batches import Batch
from server.resolvers.paging import MAX_PAGE, Page, connection_of
from server.storage import sweep_agents, sweeps
from server.storage.rows import AnyRow
from server.sweeps import commands as sweep_commands
from server.sweeps import suggestions as sweep_search
from server.sweeps.commands import Decision, Suggestion
from server.times import iso

resolvers = Resolvers()

ATTEMPTS = 5
"""How often parameters are looked for that other servers void meanwhile, before the agent is asked to come again."""


def _nodes(rows: list[AnyRow], context: Context) -> list[dict[str, Any]]:
    agent_ids = [row.id for row in rows]
    counts = Batch(lambda: context.services.database.read(sweep_agents.run_counts, agent_ids))
    return [{**_node(row, context.now), "run_counts": counts} for row in rows]


def _node(row: AnyRow, now: float) -> dict[str, Any]:
    return {
        "row_id": row.id,
        "id": ids.encode("Agent", row.id),
        "name": row.name,
        "host": row.host,
        "state": sweep_agents.state(row, now),
        "createdAt": iso(row.created_at),
        "heartbeatAt": iso(row.heartbeat_at),
    }


@resolvers.field("Sweep", "agents")
async def agents_of(
    sweep: dict[str, Any], info: Info, after: str | None = None, first: int | None = None
) -> JsonObject:
    """List a sweep's agents, all at once unless told otherwise."""
    page = Page.of(first, after, MAX_PAGE)
    database = info.context.services.database
    rows = list(await database.read(sweep_agents.of_sweep, sweep["row_id"], page.after, page.limit + 1))
    shaped = zip(rows, _nodes(rows, info.context), strict=True)
    return connection_of([(row.id, node) for row, node in shaped], page)


@resolvers.field("Sweep", "agent")
async def agent(sweep: dict[str, Any], info: Info, agentName: str) -> dict[str, Any] | None:
    """Return an agent of a sweep by its name or its id, or null."""
    try:
        agent_id = ids.decode("Agent", agentName)
    except NotFound:
        agent_id = None
    row = await info.context.services.database.read(sweep_agents.find, sweep["row_id"], agentName, agent_id)
    return _nodes([row], info.context)[0] if row else None


@resolvers.field("Agent", "totalRuns")
async def total_runs(agent: dict[str, Any], _: Info) -> int:
    """Count the runs that an agent was given."""
    return await agent["run_counts"].get(agent["row_id"]) or 0


@resolvers.field("Agent", "runs")
async def runs_of(
    agent: dict[str, Any],
    info: Info,
    after: str | None = None,
    first: int | None = None,
    order: str | None = None,
    **_unused: object,
) -> JsonObject:
    """List the runs that an agent was given."""
    context = info.context
    agent_id: int = agent["row_id"]

    def project_of(connection: Connection) -> int:
        return sweeps.by_id(connection, sweep_agents.by_id(connection, agent_id).sweep_id).project_id

    project_id = await context.services.database.read(project_of)
    return await run_resolvers.listing(context, project_id, sweep_agents.was_given(agent_id), order, first, after)


@resolvers.field("Mutation", "createAgent")
async def create_agent(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Register an agent of a sweep. One that comes to a sweep that is over is sent away at its first heartbeat."""
    context = info.context
    entity = input.get("entityName") or context.viewer.entity
    project = input.get("projectName") or run_resolvers.DEFAULT_PROJECT
    context.viewer.must_use(entity)
    name = names.run_id(context.services.random)

    def work(connection: Connection) -> AnyRow:
        sweep = sweeps.find(connection, entity, project, input["sweep"])
        agent_id = sweep_agents.create(
            connection, sweep.id, name, input["host"], user_id=context.viewer.id, now=context.now
        )
        sweeps.begin(connection, sweep.id, context.now)
        return sweep_agents.by_id(connection, agent_id)

    row = await context.services.database.write(work)
    return {"agent": _nodes([row], context)[0]}


@resolvers.field("Mutation", "agentHeartbeat")
async def heartbeat(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Tell an agent what to do: a list of commands, as JSON text. An agent or sweep that is gone is a 404."""
    context = info.context
    agent_id = ids.decode("Agent", input["id"])
    told = pushing.read_object(input.get("runState"), "runState")
    alive = sorted(name for name, lives in told.items() if lives)
    agent = await context.services.database.read(_visible, context, agent_id)
    await sweep_search.stop_early(context.services, agent.sweep_id)
    decision = await context.services.database.write(_decide, context, agent_id, alive, None)
    if decision.commands is None:
        # One at a time: what is found for one agent would only be void for the others.
        async with context.services.turns.of(("sweep", decision.sweep_id)):
            decision = await _with_suggestion(context, agent_id, alive, decision.sweep_id)
    return {"agent": _nodes([agent], context)[0], "commands": json.dumps(decision.commands or [])}


async def _with_suggestion(context: Context, agent_id: int, alive: list[str], sweep_id: int) -> Decision:
    decision = Decision(sweep_id, None)
    for _ in range(ATTEMPTS):
        suggestion = await sweep_search.suggest(context.services, sweep_id)
        decision = await context.services.database.write(_decide, context, agent_id, alive, suggestion)
        if decision.commands is not None:
            break
    return decision


def _decide(
    connection: Connection, context: Context, agent_id: int, alive: list[str], suggestion: Suggestion | None
) -> Decision:
    return sweep_commands.decide(
        connection,
        _visible(connection, context, agent_id),
        alive,
        suggestion,
        user_id=context.viewer.id,
        random=context.services.random,
        now=context.now,
    )


def _visible(connection: Connection, context: Context, agent_id: int) -> AnyRow:
    row = sweep_agents.by_id(connection, agent_id)
    if not context.viewer.may_use(row.entity_name):
        raise NotFound(sweep_agents.GONE)
    return row
