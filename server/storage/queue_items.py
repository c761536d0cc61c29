"""Run queue items, as they are read and changed beside the claim."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)

from protocol.json_types import JsonObject
from protocol.states import ItemState, RunState
from server.errors import NotFound
from server.run_state import RunFacts, state_of
from server.storage import runs as runs_storage
from server.storage.agents import OUR_AGENTS, is_at_work
from server.storage.claims import in_state
from server.storage.rows import AnyRow
from server.storage.tables import entities, launch_agents, projects, run_queue_items, run_queues, runs, users

_RUN_FACTS = (
    runs.c.started_at,
    runs.c.heartbeat_at.label("run_heartbeat_at"),
    runs.c.ended_at.label("run_ended_at"),
    runs.c.exit_code.label("run_exit_code"),
    runs.c.end_cause,
    runs.c.preempting,
    runs.c.stop_requested_at.label("run_stop_requested_at"),
)
_FULL = (
    select(
        run_queue_items,
        run_queues.c.name.label("queue_name"),
        run_queues.c.prioritization_mode,
        projects.c.id.label("project_id"),
        entities.c.name.label("entity_name"),
        users.c.username,
        launch_agents.c.name.label("agent_name"),
        launch_agents.c.heartbeat_at.label("agent_heartbeat_at"),
        launch_agents.c.status.label("agent_status"),
        launch_agents.c.version.label("agent_version"),
        *_RUN_FACTS,
    )
    .join(run_queues, run_queues.c.id == run_queue_items.c.queue_id)
    .join(projects, projects.c.id == run_queues.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .join(users, users.c.id == run_queue_items.c.created_by)
    .outerjoin(launch_agents, launch_agents.c.id == run_queue_items.c.agent_id)
    .outerjoin(runs, runs.c.id == run_queue_items.c.run_id)
)

_BY_ID = _FULL.where(run_queue_items.c.id == bindparam("item"))
_CLAIMED_FOR = _FULL.where(run_queue_items.c.run_id == bindparam("run"), in_state(ItemState.CLAIMED)).order_by(
    run_queue_items.c.id.desc()
)
_OTHERS_OF_RUN = run_queue_items.c.run_id == bindparam("run"), run_queue_items.c.id != bindparam("item")
_OTHER_OF_RUN = select(run_queue_items.c.id).where(*_OTHERS_OF_RUN).limit(1)
_ALL_OTHERS_OF_RUN = _FULL.where(*_OTHERS_OF_RUN)


@dataclass(frozen=True, slots=True)
class StopRequest:
    """A claimed item that somebody wants stopped."""

    item_id: int
    run_name: str | None


def by_id(connection: Connection, item_id: int) -> AnyRow:
    """Return an item with its queue, agent and run; `NotFound` if there is none."""
    row = connection.execute(_BY_ID, {"item": item_id}).first()
    if row is None:
        raise NotFound("There is no such item.")
    return row


def claimed_for(connection: Connection, run_id: int) -> AnyRow | None:
    """Return the claimed item of a run, with its queue, agent and run."""
    return connection.execute(_CLAIMED_FOR, {"run": run_id}).first()


def in_queue(
    connection: Connection, queue_id: int, before: int, limit: int, states: frozenset[ItemState], now: float
) -> list[AnyRow]:
    """Return a queue's items, newest first, from before the given id on; with `states` only those in one of them."""
    found: list[AnyRow] = []
    while len(found) < limit:
        page = _FULL.where(
            run_queue_items.c.queue_id == queue_id,
            run_queue_items.c.id < before if before else true(),
            or_(*(_may_be(wanted) for wanted in states)) if states else true(),
        )
        rows = list(connection.execute(page.order_by(run_queue_items.c.id.desc()).limit(limit)))
        # Which state a claimed item is in depends on the time, so the database can only preselect.
        found += [row for row in rows if not states or state(row, now) in states]
        if len(rows) < limit:
            break
        before = rows[-1].id
    return found[:limit]


def _may_be(wanted: ItemState) -> ColumnElement[bool]:
    """Return a condition on the stored state that holds for every item which `state` may find in the wanted one."""
    match wanted:
        case ItemState.PENDING:
            return in_state(wanted, ItemState.LEASED)
        case ItemState.LEASED | ItemState.CLAIMED:
            return in_state(wanted)
        case _:
            return in_state(wanted, ItemState.CLAIMED, ItemState.FAILED)


def state(row: AnyRow, now: float) -> ItemState:
    """Return what has become of an item.

    A claimed one is as far as its run, but for the end, if that is for its agent to tell.
    """
    seen = _seen(row, now)
    told_later = seen.is_ended and row.state == ItemState.CLAIMED and is_for_its_agent_to_end(row, now)
    return ItemState.RUNNING if told_later else seen


def _seen(row: AnyRow, now: float) -> ItemState:
    """Return what has become of an item as far as its run shows it.

    One that was failed before its run started, and whose run came to life all the same, is as far as its run, too:
    stock agents fail what they leave behind when they are stopped.
    """
    stored = ItemState(row.state)
    if stored is ItemState.LEASED and row.lease_expires_at <= now:
        return ItemState.PENDING
    if stored not in {ItemState.CLAIMED, ItemState.FAILED}:
        return stored
    run = run_state(row, now)
    if run is None or run is RunState.PENDING:
        return stored
    return ItemState.RUNNING if run is RunState.PREEMPTING else ItemState(run.value.upper())


def is_for_its_agent_to_end(row: AnyRow, now: float) -> bool:
    """Whether a claimed item is with an agent that tells the end and is at work: it may try a failed launch again."""
    return (row.agent_version or "").startswith(OUR_AGENTS) and not holder_is_gone(row, now)


def holder_is_gone(row: AnyRow, now: float, listening_since: float = 0) -> bool:
    """Whether an item's agent has said goodbye, or was not heard of for too long while somebody listened."""
    heard = max(row.agent_heartbeat_at or 0, listening_since)
    return not is_at_work(row.agent_status, heard, now)


def run_state(row: AnyRow, now: float) -> RunState | None:
    """Return the state of an item's run, if it has one: pending, until it was heard of since the item was claimed.

    A run that is resumed has a past, which says nothing about this item. What a run has said of its end counts, also if
    its agent has not confirmed it: whether that is the item's end is for `state` to say.
    """
    if row.run_id is None:
        return None
    if row.claimed_at is None or row.run_heartbeat_at is None or row.run_heartbeat_at < row.claimed_at:
        return RunState.PENDING
    last_word = row.run_heartbeat_at if row.run_exit_code is not None else None
    facts = RunFacts(
        started_at=row.started_at,
        heartbeat_at=row.run_heartbeat_at,
        ended_at=row.run_ended_at or last_word,
        exit_code=row.run_exit_code,
        end_cause=RunState(row.end_cause) if row.end_cause else None,
        preempting=bool(row.preempting),
        stop_requested_at=row.run_stop_requested_at,
    )
    return state_of(facts, now)


def change(connection: Connection, item_id: int, now: float, **values: Any) -> None:
    """Set columns of an item."""
    connection.execute(update(run_queue_items).where(run_queue_items.c.id == item_id).values(updated_at=now, **values))


def remove(connection: Connection, item_id: int) -> None:
    """Delete an item."""
    connection.execute(delete(run_queue_items).where(run_queue_items.c.id == item_id))


def positions(connection: Connection, queue_id: int, item_ids: Sequence[int]) -> dict[int, int]:
    """Return for waiting items of a queue how many come before each."""
    order = (run_queue_items.c.priority, run_queue_items.c.id)
    ranked = (
        select(run_queue_items.c.id, (func.row_number().over(order_by=order) - literal(1)).label("ahead"))
        .where(run_queue_items.c.queue_id == queue_id, in_state(ItemState.PENDING))
        .subquery()
    )
    found = connection.execute(select(ranked).where(ranked.c.id.in_(item_ids)))
    return {row.id: row.ahead for row in found}


def stop_requests(connection: Connection, agent_id: int) -> Sequence[StopRequest]:
    """Return an agent's claimed items that somebody wants stopped, by the item itself or by its run."""
    rows = connection.execute(
        select(run_queue_items.c.id, run_queue_items.c.run_name)
        .outerjoin(runs, runs.c.id == run_queue_items.c.run_id)
        .where(
            run_queue_items.c.agent_id == agent_id,
            in_state(ItemState.CLAIMED),
            or_(run_queue_items.c.stop_requested_at.is_not(None), runs.c.stop_requested_at.is_not(None)),
        )
    )
    return [StopRequest(row.id, row.run_name) for row in rows]


def agent_of_run(connection: Connection, run_id: int) -> int | None:
    """Return the agent that holds a run's item."""
    return connection.scalar(
        select(run_queue_items.c.agent_id)
        .where(run_queue_items.c.run_id == run_id, in_state(ItemState.CLAIMED))
        .order_by(run_queue_items.c.id.desc())
        .limit(1)
    )


def waiting_again(connection: Connection, run_id: int) -> int | None:
    """Return the item that an agent had claimed for this run, and that has gone back to its queue."""
    back = in_state(ItemState.PENDING, ItemState.LEASED)
    return connection.scalar(select(run_queue_items.c.id).where(run_queue_items.c.run_id == run_id, back).limit(1))


def settle_earlier(connection: Connection, item_id: int, run_id: int, now: float) -> None:
    """Let earlier items of a run that is taken up again keep the end that they have seen, and know the run no more.

    Otherwise they would come to life together with the new one.
    """
    of_run = {"run": run_id, "item": item_id}
    if connection.scalar(_OTHER_OF_RUN, of_run) is None:
        return  # most runs have one item; the question for all of it costs more than the rest of an acknowledgement
    runs_storage.confirm_end(connection, run_id)
    for row in connection.execute(_ALL_OTHERS_OF_RUN, of_run).all():
        seen = _seen(row, now)
        if seen.is_ended:
            change(connection, row.id, now, state=seen, ended_at=row.ended_at or now, run_id=None)


def earlier_spec(connection: Connection, queue_id: int, spec: JsonObject) -> JsonObject | None:
    """Return the launch spec of the queue's newest item that stands for the run which a spec names."""
    entity, project, run_name = (str(spec.get(key) or "") for key in ("entity", "project", "run_id"))
    run = runs_storage.find(connection, entity, project, run_name)
    if run is None:
        return None
    of_run = (run_queue_items.c.queue_id == queue_id) & (run_queue_items.c.run_id == run.id)
    newest = select(run_queue_items.c.launch_spec).where(of_run).order_by(run_queue_items.c.id.desc()).limit(1)
    text = connection.scalar(newest)
    return json.loads(text) if text else None


def take_twin(connection: Connection, queue_id: int, user_id: int, digest: str, since: float) -> int | None:
    """Return an identical item that the same user pushed by name a moment ago, once: the next call finds another."""
    twin = (
        select(run_queue_items.c.id)
        .where(
            run_queue_items.c.spec_digest == digest,
            run_queue_items.c.spec_digest != literal_column("''"),
            run_queue_items.c.queue_id == queue_id,
            run_queue_items.c.created_by == user_id,
            run_queue_items.c.created_at >= since,
        )
        .order_by(run_queue_items.c.id)
        .limit(1)
    )
    return connection.scalar(
        update(run_queue_items)
        .where(run_queue_items.c.id == twin.scalar_subquery())
        .values(spec_digest="")
        .returning(run_queue_items.c.id)
    )
