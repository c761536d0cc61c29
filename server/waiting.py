"""Why an item is not running yet, and what to do about it: one function, in words for people."""

import json

from sqlalchemy import Connection

from protocol.states import ItemState
from server import ids
from server.storage import agents, queue_items
from server.storage.rows import AnyRow


def waiting_reason(connection: Connection, row: AnyRow, now: float) -> str:
    """Return the reason for an item that waits, is leased, or is claimed."""
    match ItemState(row.state):
        case ItemState.LEASED:
            return f"Being picked up by agent {row.agent_name or 'unknown'}."
        case ItemState.CLAIMED:
            return _with_agent(row, now)
        case _:
            return _in_queue(connection, row, now)


def _with_agent(row: AnyRow, now: float) -> str:
    agent = row.agent_name or "unknown"
    if row.agent_heartbeat_at is not None and now - row.agent_heartbeat_at > agents.ALIVE_SECONDS:
        silent = int(now - row.agent_heartbeat_at)
        return f"With agent {agent}, which was not heard of for {silent} s. Start it again: it goes on where it was."
    return f"With agent {agent}: {row.status_message or row.status or 'starting'}."


def _in_queue(connection: Connection, row: AnyRow, now: float) -> str:
    serving = agents.serving(connection, row.project_id, ids.encode("RunQueue", row.queue_id), now)
    if not serving:
        return (
            f"No agent serves queue {row.queue_name!r}. "
            f"Start one: launchbay agent -q {row.queue_name} -e {row.entity_name}"
        )
    ahead = queue_items.ahead_of(connection, row)
    behind = f"{ahead} item(s) are ahead of it" if ahead else "it is next"
    if all(_is_full(connection, agent) for agent in serving):
        return f"All {len(serving)} agent(s) of queue {row.queue_name!r} are full (max_jobs); {behind}."
    return f"Waiting for an agent; {behind}."


def _is_full(connection: Connection, agent: AnyRow) -> bool:
    limit = json.loads(agent.config).get("max_jobs", 1)
    return limit != -1 and agents.held(connection, agent.id) >= int(limit)
