"""The claim table: how an item goes from its queue to one agent, and to no other.

An item is taken under a lease, by one statement over the index of waiting items, so that its cost does not grow with
the queue. A lease that ends without an acknowledgement goes back, which is done by the next look at the queue. The
acknowledgement makes it a claim, and a claim stays with its agent until the end is told.
"""

from typing import Any

from sqlalchemy import Connection, Select, insert, select, update

from server.storage.rows import AnyRow
from server.storage.tables import run_queue_items as items

LEASE_SECONDS = 60.0
"""Agents rely on about a minute."""


def push(connection: Connection, queue_id: int, *, now: float, **values: Any) -> int:
    """Add a waiting item; returns its id."""
    row = {"queue_id": queue_id, "state": "PENDING", "warnings": "[]", "created_at": now, "updated_at": now}
    return connection.execute(insert(items).values(**row, **values)).inserted_primary_key[0]  # type: ignore[index]


def take(connection: Connection, queue_id: int, agent_id: int | None, now: float) -> AnyRow | None:
    """Lease the queue's next item to an agent: the most urgent, of those the oldest. None if none waits."""
    return_expired(connection, queue_id, now)
    chosen = _next(connection, queue_id)
    return connection.execute(
        update(items)
        .where(items.c.id == chosen.scalar_subquery(), items.c.state == "PENDING")
        .values(state="LEASED", agent_id=agent_id, lease_expires_at=now + LEASE_SECONDS, updated_at=now)
        .returning(items.c.id, items.c.launch_spec)
    ).first()


def _next(connection: Connection, queue_id: int) -> Select[tuple[int]]:
    """Choose the next item. In a queue without priorities all items have the same one."""
    statement = (
        select(items.c.id)
        .where(items.c.queue_id == queue_id, items.c.state == "PENDING")
        .order_by(items.c.priority, items.c.id)
        .limit(1)
    )
    if connection.dialect.name == "postgresql":
        return statement.with_for_update(skip_locked=True)
    return statement


def return_expired(connection: Connection, queue_id: int, now: float) -> None:
    """Put items back whose lease has ended."""
    connection.execute(
        update(items)
        .where(items.c.queue_id == queue_id, items.c.state == "LEASED", items.c.lease_expires_at <= now)
        .values(state="PENDING", agent_id=None, lease_expires_at=None, updated_at=now)
    )


def next_expiry(connection: Connection, queue_id: int) -> float | None:
    """Return when the queue's first lease ends."""
    return connection.scalar(
        select(items.c.lease_expires_at)
        .where(items.c.queue_id == queue_id, items.c.state == "LEASED")
        .order_by(items.c.lease_expires_at)
        .limit(1)
    )


def acknowledge(connection: Connection, item_id: int, agent_id: int | None, run_name: str, now: float) -> AnyRow | None:
    """Turn a lease into a claim; returns the item, or None if it is somebody else's.

    A stock agent does not say who it is: it may acknowledge whatever is leased. Ours does, so that only the holder of
    the lease gets the claim, and repeating it after a crash is answered with the claim that is there.
    """
    statement = update(items).where(items.c.id == item_id, items.c.state == "LEASED")
    if agent_id is not None:
        statement = statement.where(items.c.agent_id == agent_id)
    values = {"state": "CLAIMED", "run_name": run_name, "claimed_at": now, "lease_expires_at": None, "updated_at": now}
    claimed = connection.execute(statement.values(**values).returning(items)).first()
    if claimed is not None or agent_id is None:
        return claimed
    return connection.execute(
        select(items).where(
            items.c.id == item_id,
            items.c.state == "CLAIMED",
            items.c.agent_id == agent_id,
            items.c.run_name == run_name,
        )
    ).first()


def link_run(connection: Connection, item_id: int, run_id: int) -> None:
    """Tie a claimed item to its run."""
    connection.execute(update(items).where(items.c.id == item_id).values(run_id=run_id))


def end(connection: Connection, item_id: int, state: str, now: float, **values: Any) -> None:
    """Note that nothing more will happen to an item."""
    connection.execute(
        update(items)
        .where(items.c.id == item_id)
        .values(state=state, ended_at=now, updated_at=now, lease_expires_at=None, **values)
    )
