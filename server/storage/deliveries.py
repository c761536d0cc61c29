"""What automations did and have to do, and alerts on their way: one row each, worked off by whoever comes first.

A row that waits is due at a time. Who takes it moves that time ahead: if he dies, it is due again by itself. So it is
sent at least once.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, insert, literal_column, select, update

from server.storage.rows import AnyRow
from server.storage.tables import automations, deliveries, entities, integrations

WAITING, DONE, FAILED = "WAITING", "DONE", "FAILED"
LEASE_SECONDS = 30.0
"""Longer than an attempt can take."""

# A literal, not a parameter: only then does SQLite see, when it plans, that the partial index will do.
_IS_WAITING = deliveries.c.state == literal_column(f"'{WAITING}'")


def add(
    connection: Connection,
    *,
    entity_id: int,
    automation_id: int | None,
    integration_id: int | None,
    event_type: str,
    variables: Mapping[str, Any],
    now: float,
) -> None:
    """Note something to be sent; if it is to go nowhere, it is noted as done."""
    row = {
        "entity_id": entity_id,
        "automation_id": automation_id,
        "integration_id": integration_id,
        "event_type": event_type,
        "variables": json.dumps(variables),
        "state": WAITING if integration_id is not None else DONE,
        "attempts": 0,
        "due_at": now,
        "created_at": now,
        "ended_at": None if integration_id is not None else now,
    }
    connection.execute(insert(deliveries), row)


def add_of_automation(connection: Connection, automation: AnyRow, variables: Mapping[str, Any], now: float) -> None:
    """Note that what an automation waits for has happened."""
    add(
        connection,
        entity_id=automation.entity_id,
        automation_id=automation.id,
        integration_id=automation.integration_id,
        event_type=automation.event_type,
        variables={"automation_name": automation.name, **variables},
        now=now,
    )


def take(connection: Connection, limit: int, busy: Collection[int], now: float) -> list[AnyRow]:
    """Take what is due, and nobody else's then; what was never tried comes first. Gives ids and integrations.

    Nothing is taken for integrations that are busy.
    """
    values = {"at": now, "until": now + LEASE_SECONDS, "at_most": limit, "are_busy": list(busy)}
    return list(connection.execute(_TAKE, values))


def by_id(connection: Connection, delivery_id: int) -> AnyRow | None:
    """Return a delivery with what is to be sent and where."""
    return connection.execute(_FULL.where(deliveries.c.id == delivery_id)).first()


def end(connection: Connection, row: AnyRow, state: str, answer: str, now: float) -> None:
    """Note what came of a delivery."""
    _note(connection, row, state=state, answer=answer, ended_at=now)


def put_off(connection: Connection, row: AnyRow, answer: str, due_at: float) -> None:
    """Note that an attempt has failed, and when the next one is due."""
    _note(connection, row, answer=answer, due_at=due_at)


def _note(connection: Connection, row: AnyRow, **values: Any) -> None:
    """Set columns of a delivery, unless somebody else has taken it since."""
    own = (deliveries.c.id == row.id, deliveries.c.attempts == row.attempts, _IS_WAITING)
    connection.execute(update(deliveries).where(*own).values(**values))


def newest(connection: Connection, entity_id: int, limit: int) -> list[AnyRow]:
    """Return an entity's deliveries, newest first."""
    statement = _FULL.where(deliveries.c.entity_id == entity_id)
    return list(connection.execute(statement.order_by(deliveries.c.id.desc()).limit(limit)))


def forget(connection: Connection, before: float) -> None:
    """Remove what ended long ago."""
    connection.execute(delete(deliveries).where(deliveries.c.ended_at < before))


_FULL: Select[Any] = (
    select(
        deliveries,
        automations.c.name.label("automation_name"),
        automations.c.action,
        integrations.c.name.label("integration_name"),
        integrations.c.kind,
        integrations.c.url,
        integrations.c.access_token,
        integrations.c.secret,
        integrations.c.reaches_all,
        entities.c.name.label("integration_entity"),
    )
    .outerjoin(automations, automations.c.id == deliveries.c.automation_id)
    .outerjoin(integrations, integrations.c.id == deliveries.c.integration_id)
    .outerjoin(entities, entities.c.id == integrations.c.entity_id)
)
# Of a subquery PostgreSQL may ask again for each row, and lock more than the limit; of this it does not.
_DUE = (
    select(deliveries.c.id)
    .where(_IS_WAITING, deliveries.c.due_at <= bindparam("at"))
    .where(deliveries.c.integration_id.not_in(bindparam("are_busy", expanding=True)))
    .order_by(deliveries.c.attempts, deliveries.c.due_at)
    .limit(bindparam("at_most"))
    .with_for_update(skip_locked=True)  # SQLite has one writer, and ignores it
    .cte("due")
)
_TAKE = (
    update(deliveries)
    .where(deliveries.c.id.in_(select(_DUE.c.id)), _IS_WAITING)
    .values(attempts=deliveries.c.attempts + 1, due_at=bindparam("until"))
    .returning(deliveries.c.id, deliveries.c.integration_id)
)
