"""Runs about which an automation may have something to say yet: from their making, or their coming back, to their end.

They are looked at, and not listened to, so that what writes to a run need not know of it. A look counts only if the
row's version is still the one that was looked at.
"""

from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    case,
    cast,
    delete,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from protocol.states import RunState
from server.automations.event_types import FAILED, FINISHED, METRIC_EVENTS, RUN_EVENTS, RUNNING
from server.storage import automations
from server.storage.rows import AnyRow
from server.storage.tables import entities, projects, runs, users, watched_runs
from server.storage.upsert import insert_into

FORGET_SECONDS = 24 * 3600.0
"""How long a run is watched that is not heard of any more: it may come back."""

_IS_RECORDED_END = or_(runs.c.deleted_at.is_not(None), runs.c.ended_at.is_not(None), runs.c.end_cause.is_not(None))


def watch(connection: Connection, run_id: int) -> None:
    """Watch a run that begins a life, from where its history is now, if an automation waits for runs like it."""
    connection.exec_driver_sql(_watching(connection.dialect.name), (run_id,))


def watch_living(
    connection: Connection, project_id: int | None, entity_id: int, state: ColumnElement[str], now: float
) -> None:
    """Watch the runs of a project, or of an entity, that have not ended. Call it before the automation is there.

    What became of them so far is told to nobody, and what they have logged was read by those who wait for metrics.
    """
    unread = select(runs.c.id).where(
        _living(project_id, entity_id, now), ~automations.any_concerned_by_run(METRIC_EVENTS)
    )
    length = select(runs.c.history_lines).where(runs.c.id == watched_runs.c.run_id).scalar_subquery()
    connection.execute(
        update(watched_runs)
        .where(watched_runs.c.run_id.in_(unread))
        .values(lines_read=length, version=watched_runs.c.version + 1)
    )
    watch_unwatched(connection, project_id, entity_id, state, now)


def watch_unwatched(
    connection: Connection, project_id: int | None, entity_id: int, state: ColumnElement[str], now: float
) -> None:
    """Watch those runs of a project, or of an entity, that have not ended and are not watched, from where they are."""
    told = _coarse(state, pending=cast(null(), String))
    living = _rows(told).where(_living(project_id, entity_id, now))
    added = insert_into(watched_runs, connection.dialect.name).from_select(_COLUMNS, living)
    connection.execute(added.on_conflict_do_nothing(index_elements=["run_id"]))


def page(connection: Connection, state: ColumnElement[str], now: float, after: int, limit: int) -> list[AnyRow]:
    """Return watched runs of which there is something to tell or to forget, by row number; `state` is theirs in SQL."""
    unread = and_(runs.c.history_lines != watched_runs.c.lines_read, automations.any_concerned_by_run(METRIC_EVENTS))
    is_over = _is_over(now)
    as_told = _coarse(state, pending=watched_runs.c.told)
    something = or_(is_over, as_told.is_distinct_from(watched_runs.c.told), unread)
    statement = _LOOK.add_columns(is_over.label("is_over")).where(watched_runs.c.run_id > after, something)
    return list(connection.execute(statement.order_by(watched_runs.c.run_id).limit(limit)))


def note(connection: Connection, row: AnyRow, *, told: str | None, lines_read: int, metrics: str) -> bool:
    """Note what came of a look; whether it counts."""
    values = {"told": told, "lines_read": lines_read, "metrics": metrics, "version": row.version + 1}
    return connection.execute(update(watched_runs).where(*_as_seen(row)).values(values)).rowcount > 0


def forget(connection: Connection, row: AnyRow) -> bool:
    """Watch a run no longer; whether the look counts."""
    return connection.execute(delete(watched_runs).where(*_as_seen(row))).rowcount > 0


def _is_over(now: float) -> ColumnElement[bool]:
    return or_(_IS_RECORDED_END, func.coalesce(runs.c.heartbeat_at, now) < now - FORGET_SECONDS)


def _coarse(state: ColumnElement[str], *, pending: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return `event_types.coarse` in SQL."""
    return case(
        (state == RunState.PENDING.value, pending),
        (state.in_([RunState.RUNNING.value, RunState.PREEMPTING.value]), RUNNING),
        (state == RunState.FINISHED.value, FINISHED),
        else_=FAILED,
    )


def _as_seen(row: AnyRow) -> tuple[ColumnElement[bool], ...]:
    return (watched_runs.c.run_id == row.run_id, watched_runs.c.version == row.version)


def _living(project_id: int | None, entity_id: int, now: float) -> ColumnElement[bool]:
    if project_id is not None:
        return and_(runs.c.project_id == project_id, ~_is_over(now))
    of_entity = select(projects.c.id).where(projects.c.entity_id == entity_id)
    return and_(runs.c.project_id.in_(of_entity), ~_is_over(now))


def _rows(told: ColumnElement[Any]) -> Select[Any, int, Any, Any, str]:
    return select(runs.c.id, literal(1), told, runs.c.history_lines, literal("{}"))


_COLUMNS = ["run_id", "version", "told", "lines_read", "metrics"]
_LOOK: Select[Any] = (
    select(
        watched_runs,
        *(runs.c[name] for name in ("project_id", "name", "display_name", "history_lines", "deleted_at")),
        *(runs.c[name] for name in ("started_at", "heartbeat_at", "ended_at", "exit_code", "end_cause")),
        *(runs.c[name] for name in ("preempting", "stop_requested_at")),
        projects.c.name.label("project_name"),
        projects.c.entity_id,
        entities.c.name.label("entity_name"),
        users.c.username,
    )
    .join(runs, runs.c.id == watched_runs.c.run_id)
    .join(projects, projects.c.id == runs.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .join(users, users.c.id == runs.c.created_by)
)


@cache
def _watching(dialect: str) -> str:
    """Return the SQL that watches one run. All new runs need it, and SQLAlchemy takes longer than the database does."""
    the_run = literal_column("$1" if dialect == "postgresql" else "?", BigInteger)
    wanted = and_(runs.c.id == the_run, automations.any_concerned_by_run(RUN_EVENTS))
    added = insert_into(watched_runs, dialect).from_select(_COLUMNS, _rows(cast(null(), String)).where(wanted))
    again = {
        "version": watched_runs.c.version + 1,
        "told": None,
        "lines_read": added.excluded.lines_read,
        "metrics": added.excluded.metrics,
    }
    statement = added.on_conflict_do_update(index_elements=["run_id"], set_=again)
    module = postgresql if dialect == "postgresql" else sqlite
    return str(statement.compile(dialect=module.dialect(), compile_kwargs={"literal_binds": True}))
