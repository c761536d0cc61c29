"""The claim table: how an item goes from its queue to one agent, and to no other.

An item is taken under a lease, by one statement over the index of waiting items, so that its cost does not grow with
the queue. A lease that ends without an acknowledgement goes back, which is done by those who look at the queue. The
acknowledgement makes it a claim, and a claim stays with its agent until the end is told, or until the agent is gone and
cannot have started anything.

An item that went back by itself keeps the name of its last holder: if that one speaks up before anybody else took the
item, it is his again. One that its holder has handed back does not: what he had said before counts no more.

States stand in the statements as literals, not as parameters: only then does SQLite see, when it plans, that a partial
index will do.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from protocol.states import ItemState
from server.storage import runs as runs_storage
from server.storage.agents import ALIVE_SECONDS, OUR_AGENTS, PREPARING, STARTING
from server.storage.rows import AnyRow
from server.storage.tables import launch_agents, runs
from server.storage.tables import run_queue_items as items

LEASE_SECONDS = 60.0
"""Agents rely on about a minute."""


def in_state(*states: ItemState) -> ColumnElement[bool]:
    """Return the condition that an item is in one of these states."""
    return or_(*(items.c.state == literal_column(f"'{state}'") for state in states))


def push(connection: Connection, queue_id: int, *, now: float, **values: Any) -> int:
    """Add a waiting item; returns its id."""
    row = {"queue_id": queue_id, "state": "PENDING", "warnings": "[]", "created_at": now, "updated_at": now}
    return connection.execute(_PUSH, {**row, **values}).inserted_primary_key[0]  # type: ignore[index]


def take(connection: Connection, queue_id: int, agent_id: int | None, now: float) -> AnyRow | None:
    """Lease the queue's next item to an agent: the most urgent, of those the oldest. None if none waits."""
    statement = _TAKE_SKIPPING_LOCKED if connection.dialect.name == "postgresql" else _TAKE
    values = {"of_queue": queue_id, "holder": agent_id, "until": now + LEASE_SECONDS, "at": now}
    return connection.execute(statement, values).first()


def return_expired(connection: Connection, queue_id: int, now: float) -> None:
    """Put items back whose lease has ended."""
    connection.execute(_RETURN_EXPIRED, {"of_queue": queue_id, "at": now})


def next_expiry(connection: Connection, queue_id: int) -> float | None:
    """Return when the queue's first lease ends."""
    return connection.scalar(
        select(items.c.lease_expires_at)
        .where(items.c.queue_id == queue_id, in_state(ItemState.LEASED))
        .order_by(items.c.lease_expires_at)
        .limit(1)
    )


def return_abandoned(connection: Connection, queue_id: int, now: float) -> Sequence[int]:
    """Put claimed items back whose agent is gone and cannot have started them; returns their ids.

    An agent that says how far it is (ours) may have started whatever it does not report as being prepared, and finds it
    again when it is back. One that does not say is known only by its run, and forgets everything when it dies. What
    somebody wants stopped, by the item or by its run, ends instead.
    """
    unstarted = or_(runs.c.id.is_(None), runs.c.heartbeat_at.is_(None), runs.c.heartbeat_at < items.c.claimed_at)
    reports = launch_agents.c.version.startswith(OUR_AGENTS)
    preparing = or_(items.c.status == PREPARING, and_(items.c.status.is_(None), reports.is_not(True)))
    unwanted = or_(items.c.stop_requested_at.is_not(None), runs.c.stop_requested_at.is_not(None))
    abandoned = connection.execute(
        select(items.c.id, items.c.run_id, unwanted.label("is_unwanted"))
        .join(launch_agents, launch_agents.c.id == items.c.agent_id)
        .outerjoin(runs, runs.c.id == items.c.run_id)
        .where(items.c.queue_id == queue_id, in_state(ItemState.CLAIMED))
        .where(launch_agents.c.heartbeat_at < now - ALIVE_SECONDS, unstarted, preparing)
    ).all()
    for row in abandoned:
        if row.is_unwanted:
            stop_unstarted(connection, row.id, row.run_id, "Stopped while its agent was gone.", "agent", now)
    returned = [row.id for row in abandoned if not row.is_unwanted]
    if returned:
        waiting = {"state": "PENDING", "status": None, "status_message": None, "updated_at": now}
        connection.execute(update(items).where(items.c.id.in_(returned)).values(waiting))
    return returned


def acknowledge(connection: Connection, item_id: int, agent_id: int | None, run_name: str, now: float) -> AnyRow | None:
    """Turn a lease into a claim; returns the item, or None if it is somebody else's.

    A stock agent does not say who it is: it may acknowledge whatever is leased, once. Ours does, so that only the
    holder of the lease gets the claim, and repeating it after a crash is answered with the claim that is there. A lease
    that has ended is good as long as nobody else has taken the item.
    """
    values = {"of_item": item_id, "for_run": run_name, "at": now}
    if agent_id is None:
        claimed = connection.execute(_ACKNOWLEDGE, values).first()
    else:
        claimed = connection.execute(_ACKNOWLEDGE_OWN, {**values, "holder": agent_id}).first()
    if claimed is not None or agent_id is None:
        return claimed
    return connection.execute(
        select(items).where(
            items.c.id == item_id,
            in_state(ItemState.CLAIMED),
            items.c.agent_id == agent_id,
            items.c.run_name == run_name,
        )
    ).first()


def note_progress(
    connection: Connection, item_id: int, agent_id: int | None, status: str, message: str | None, now: float
) -> bool:
    """Note how far an agent says that a launch is; whether the claim is still his.

    A claim that went back while he was not heard of is his again, if nobody else has taken it.
    """
    values = {"of_item": item_id, "how_far": status, "what": message, "at": now}
    if agent_id is None:
        return connection.execute(_NOTE_PROGRESS, values).rowcount > 0
    return connection.execute(_NOTE_OWN_PROGRESS, {**values, "holder": agent_id}).rowcount > 0


def release(connection: Connection, item_id: int, agent_id: int, now: float) -> bool:
    """Have an item that its holder has not started wait at its old place, and be nobody's; whether it was his."""
    held = in_state(ItemState.CLAIMED, ItemState.LEASED, ItemState.PENDING)
    released = (
        update(items)
        .where(items.c.id == item_id, held, items.c.agent_id == agent_id)
        .values(
            state="PENDING",
            agent_id=None,
            lease_expires_at=None,
            claimed_at=None,
            status=None,
            status_message=None,
            updated_at=now,
        )
    )
    return connection.execute(released).rowcount > 0


def hand_over(connection: Connection, item_id: int, agent_id: int, now: float) -> None:
    """Give a claim to an agent that has found its launch on a platform. Who may have it was decided before."""
    connection.execute(
        update(items)
        .where(items.c.id == item_id)
        .values(state="CLAIMED", agent_id=agent_id, status=STARTING, status_message=None, updated_at=now)
    )


def link_run(connection: Connection, item_id: int, run_id: int) -> None:
    """Tie a claimed item to its run."""
    connection.execute(_LINK_RUN, {"of_item": item_id, "for_run": run_id})


def end(
    connection: Connection,
    item_id: int,
    state: str,
    now: float,
    *,
    exit_code: int | None = None,
    error: str | None = None,
) -> None:
    """Note that nothing more will happen to an item. `error` is JSON: message, stage, filePaths."""
    values = {"of_item": item_id, "ends_as": state, "at": now, "code": exit_code, "why": error}
    connection.execute(_END, values)


def stop_unstarted(
    connection: Connection, item_id: int, run_id: int | None, message: str, stage: str, now: float
) -> None:
    """End an item that nobody is going to start any more, and the run that it was claimed for, if it was."""
    end(connection, item_id, ItemState.STOPPED, now, error=json.dumps(problem(message, stage)))
    if run_id is not None:
        runs_storage.record_end(connection, run_id, "killed", None, now)


def problem(message: str, stage: str | None, file_paths: Sequence[str] = ()) -> dict[str, Any]:
    """Return what is stored of an error or a warning of an item."""
    return {"message": message, "stage": stage, "filePaths": list(file_paths)}


def _next(*, skip_locked: bool) -> Select[tuple[int]]:
    """Choose the next item. In a queue without priorities all items have the same one."""
    statement = (
        select(items.c.id)
        .where(items.c.queue_id == bindparam("of_queue"), in_state(ItemState.PENDING))
        .order_by(items.c.priority, items.c.id)
        .limit(literal_column("1"))
    )
    return statement.with_for_update(skip_locked=True) if skip_locked else statement


def _taking(chosen: Select[tuple[int]]) -> Update:
    return (
        update(items)
        .where(items.c.id == chosen.scalar_subquery(), in_state(ItemState.PENDING))
        .values(
            state="LEASED",
            agent_id=bindparam("holder"),
            lease_expires_at=bindparam("until"),
            claimed_at=None,
            status=None,
            status_message=None,
            updated_at=bindparam("at"),
        )
    )


def _acknowledging(allowed: ColumnElement[bool]) -> Update:
    return (
        update(items)
        .where(items.c.id == bindparam("of_item"), allowed)
        .values(
            state="CLAIMED",
            run_name=bindparam("for_run"),
            claimed_at=bindparam("at"),
            lease_expires_at=None,
            updated_at=bindparam("at"),
        )
    )


def _noting(allowed: ColumnElement[bool]) -> Update:
    return (
        update(items)
        .where(items.c.id == bindparam("of_item"), allowed)
        .values(
            state="CLAIMED",
            status=bindparam("how_far"),
            status_message=bindparam("what"),
            updated_at=bindparam("at"),
        )
    )


# Made once: to build a statement and to find its compiled form takes longer than to run it.
_PUSH: Final = insert(items)
_TAKEN: Final = (items.c.id, items.c.launch_spec, items.c.created_at)
_TAKE: Final = _taking(_next(skip_locked=False)).returning(*_TAKEN)
_TAKE_SKIPPING_LOCKED: Final = _taking(_next(skip_locked=True)).returning(*_TAKEN)
_RETURN_EXPIRED: Final = (
    update(items)
    .where(
        items.c.queue_id == bindparam("of_queue"),
        in_state(ItemState.LEASED),
        items.c.lease_expires_at <= bindparam("at"),
    )
    .values(state="PENDING", lease_expires_at=None, updated_at=bindparam("at"))
)
_ACKNOWLEDGE: Final = _acknowledging(
    or_(in_state(ItemState.LEASED), and_(in_state(ItemState.PENDING), items.c.agent_id.is_not(None)))
).returning(items)
_ACKNOWLEDGE_OWN: Final = _acknowledging(
    and_(in_state(ItemState.LEASED, ItemState.PENDING), items.c.agent_id == bindparam("holder"))
).returning(items)
_LINK_RUN: Final = update(items).where(items.c.id == bindparam("of_item")).values(run_id=bindparam("for_run"))
_NOTE_PROGRESS: Final = _noting(in_state(ItemState.CLAIMED))
_WENT_BACK: Final = and_(in_state(ItemState.PENDING), items.c.claimed_at.is_not(None))
_NOTE_OWN_PROGRESS: Final = _noting(
    and_(or_(in_state(ItemState.CLAIMED), _WENT_BACK), items.c.agent_id == bindparam("holder"))
)
_END: Final = (
    update(items)
    .where(items.c.id == bindparam("of_item"))
    .values(
        state=bindparam("ends_as"),
        ended_at=bindparam("at"),
        updated_at=bindparam("at"),
        lease_expires_at=None,
        exit_code=bindparam("code"),
        error=bindparam("why"),
    )
)
