"""Why an item is not running yet, and what to do about it: one function, in words for people."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from protocol.resources import serving_command
from protocol.states import ItemState
from server import ids
from server.storage import agents, queue_items
from server.storage.rows import AnyRow


def waiting_reasons(connection: Connection, rows: Sequence[AnyRow], now: float) -> dict[int, str]:
    """Return by item the reason for each that waits, is leased, or is claimed; others are left out."""
    reasons: dict[int, str] = {}
    waiting: defaultdict[int, list[AnyRow]] = defaultdict(list)
    for row in rows:
        match queue_items.state(row, now):
            case ItemState.PENDING:
                waiting[row.queue_id].append(row)
            case ItemState.LEASED:
                reasons[row.id] = f"Being picked up by agent {row.agent_name or 'unknown'}."
            case ItemState.CLAIMED:
                reasons[row.id] = _with_agent(row, now)
            case _:
                pass
    for queued in waiting.values():
        reasons |= _in_queue(connection, queued, now)
    return reasons


def _with_agent(row: AnyRow, now: float) -> str:
    agent = row.agent_name or "unknown"
    remedy = f"Start it again: {'it goes on where it was' if row.stop_requested_at is None else 'it stops this then'}."
    if row.agent_status == "KILLED":
        return f"With agent {agent}, which has ended. {remedy}"
    if row.agent_heartbeat_at is not None and now - row.agent_heartbeat_at > agents.ALIVE_SECONDS:
        silent = int(now - row.agent_heartbeat_at)
        return f"With agent {agent}, which was not heard of for {silent} s. {remedy}"
    if row.stop_requested_at is not None:
        return f"With agent {agent}, which was told to stop it."
    doing = (row.status_message or row.status or "starting").removesuffix(".")
    return f"With agent {agent}: {doing}."


def _in_queue(connection: Connection, rows: Sequence[AnyRow], now: float) -> dict[int, str]:
    """Return the reasons for items that wait in one queue."""
    first = rows[0]
    serving = agents.serving(connection, first.project_id, ids.encode("RunQueue", first.queue_id), now)
    if not serving:
        resource = json.loads(first.launch_spec).get("resource") or "local-process"
        command = serving_command(first.queue_name, first.entity_name, resource)
        return dict.fromkeys([row.id for row in rows], f"No agent serves this queue. Start one with: {command}")
    # One that was waiting when it was read may be with an agent by now, which is no reason for it to wait.
    held = agents.held(connection, [agent.id for agent in serving], besides=[row.id for row in rows])
    if all(_is_full(agent, held.get(agent.id, 0)) for agent in serving):
        why = f"All agents of this queue ({len(serving)}) are at max_jobs"
    else:
        why = "Waiting for an agent"
    ahead = queue_items.positions(connection, first.queue_id, [row.id for row in rows])
    return {row.id: f"{why}; {_place(ahead.get(row.id, 0))}." for row in rows}


def _place(ahead: int) -> str:
    if not ahead:
        return "it is next"
    return "1 item is ahead" if ahead == 1 else f"{ahead} items are ahead"


def _is_full(agent: AnyRow, held: int) -> bool:
    config: Any = json.loads(agent.config)
    try:
        limit = int(config["max_jobs"])
    except (KeyError, TypeError, ValueError):
        limit = 1  # what agents do without the key
    return limit != -1 and held >= limit
