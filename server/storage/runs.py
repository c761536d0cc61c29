"""Runs: what is recorded of them, and how they change."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Update,
    and_,
    bindparam,
    case,
    func,
    insert,
    select,
    true,
    update,
)

from protocol.states import RunState
from server.run_state import HEARTBEAT_TIMEOUT_SECONDS, RunFacts, state_of
from server.storage import places, run_values, streams, watched_runs
from server.storage.places import Key
from server.storage.rows import AnyRow
from server.storage.run_values import Place
from server.storage.streams import Stream
from server.storage.tables import entities, projects, runs, users

_FULL = (
    select(
        runs,
        projects.c.name.label("project_name"),
        projects.c.entity_id,
        entities.c.name.label("entity_name"),
        users.c.username,
    )
    .join(projects, projects.c.id == runs.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .join(users, users.c.id == runs.c.created_by)
)


@dataclass(frozen=True, slots=True)
class Order:
    """An order of runs."""

    keys: Sequence[Key] = ()
    """What counts first, and what counts if that is the same; in the end their row numbers."""
    source: FromClause = runs
    """The runs, and what the keys are of."""


class Listed(NamedTuple):
    """A run in a list."""

    row: AnyRow
    place: Sequence[Any]


_FOUND_BY = {"config": Place.CONFIG, "summary": Place.SUMMARY, "tags": Place.TAGS}
"""Columns whose values runs are found by."""

# Made once, as every launch or request of a run needs them.
_BY_NAME = _FULL.where(runs.c.project_id == bindparam("of_project"), runs.c.name == bindparam("named"))
_BY_ID = _FULL.where(runs.c.id == bindparam("of_run"))
_BY_PATH = _FULL.where(
    entities.c.name == bindparam("entity"),
    projects.c.name_key == bindparam("project"),
    runs.c.name == bindparam("named"),
    runs.c.deleted_at.is_(None),
)
_ID_BY_NAME = select(runs.c.id).where(runs.c.project_id == bindparam("of_project"), runs.c.name == bindparam("named"))
_INSERT = insert(runs)
_RECORD_END = (
    update(runs)
    .where(runs.c.id == bindparam("of_run"), runs.c.ended_at.is_(None), runs.c.end_cause.is_(None))
    .values(end_cause=bindparam("cause"), exit_code=bindparam("code"), updated_at=bindparam("at"))
)
_NO_LIFE: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("started_at", "heartbeat_at", "ended_at", "exit_code", "end_cause")),
    "preempting": False,
}
"""What is recorded of a run that waits to be started."""


def by_name(connection: Connection, project_id: int, name: str, *, deleted: bool = False) -> AnyRow | None:
    """Return a run of a project, with its project, entity and user; deleted ones only on request."""
    found = connection.execute(_BY_NAME, {"of_project": project_id, "named": name}).first()
    return found if found is None or deleted or found.deleted_at is None else None


def by_id(connection: Connection, run_id: int) -> AnyRow:
    """Return the run of that row number."""
    return connection.execute(_BY_ID, {"of_run": run_id}).one()


def find(connection: Connection, entity: str, project: str, name: str) -> AnyRow | None:
    """Return a run by its full path, if it is not deleted."""
    return connection.execute(_BY_PATH, {"entity": entity, "project": project.lower(), "named": name}).first()


def facts(row: AnyRow) -> RunFacts:
    """Return the facts from which the run's state follows."""
    return RunFacts(
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        ended_at=row.ended_at,
        exit_code=row.exit_code,
        end_cause=RunState(row.end_cause) if row.end_cause else None,
        preempting=row.preempting,
        stop_requested_at=row.stop_requested_at,
    )


def state(row: AnyRow, now: float) -> RunState:
    """Return the run's state."""
    return state_of(facts(row), now)


def state_expression(now: float) -> ColumnElement[str]:
    """Return `run_state.state_of` in SQL, for filters and orders. A test holds that the two agree."""
    silent = now - func.coalesce(runs.c.heartbeat_at, runs.c.started_at) > HEARTBEAT_TIMEOUT_SECONDS
    own_end = case(
        (func.coalesce(runs.c.exit_code, 0) == 0, RunState.FINISHED.value),
        (runs.c.preempting, RunState.PREEMPTED.value),
        (runs.c.stop_requested_at.is_not(None), RunState.KILLED.value),
        else_=RunState.FAILED.value,
    )
    return case(
        (runs.c.end_cause.is_not(None), runs.c.end_cause),
        (runs.c.ended_at.is_not(None), own_end),
        (runs.c.started_at.is_(None), RunState.PENDING.value),
        (and_(silent, runs.c.exit_code.is_not(None)), own_end),
        (and_(silent, runs.c.preempting), RunState.PREEMPTED.value),
        (silent, RunState.CRASHED.value),
        (runs.c.preempting, RunState.PREEMPTING.value),
        else_=RunState.RUNNING.value,
    )


def create(connection: Connection, project_id: int, name: str, *, user_id: int, now: float, **values: Any) -> int:
    """Add a run; what is not given is empty."""
    row: dict[str, Any] = {
        "project_id": project_id,
        "name": name,
        "display_name": name,
        "created_by": user_id,
        "config": "{}",
        "summary": "{}",
        "system_metrics": "{}",
        "tags": "[]",
        "preempting": False,
        "history_lines": 0,
        "event_lines": 0,
        "log_lines": 0,
        "last_step": -1,
        "created_at": now,
        "updated_at": now,
        **values,
    }
    # As parameters: a statement that holds this many values takes longer to build than to run.
    (run_id,) = cast("tuple[int]", connection.execute(_INSERT, row).inserted_primary_key)
    for column, place in _FOUND_BY.items():
        run_values.change(connection, run_id, project_id, place, None, row[column])
    watched_runs.watch(connection, run_id)
    return run_id


def change(connection: Connection, run_id: int, now: float, **values: Any) -> None:
    """Set columns of a run."""
    texts = {column: values[column] for column in _FOUND_BY if column in values}
    if texts:
        project_id, *before = connection.execute(_noted(tuple(texts)), {"of_run": run_id}).one()
        for (column, text), old in zip(texts.items(), before, strict=True):
            run_values.change(connection, run_id, project_id, _FOUND_BY[column], old, text)
    set_columns(connection, run_id, updated_at=now, **values)


def set_columns(connection: Connection, run_id: int, **values: Any) -> None:
    """Set columns of a run of which nothing else depends."""
    given = {f"new_{column}": value for column, value in values.items()}
    connection.execute(_setting(tuple(values)), {"of_run": run_id, **given})


@lru_cache
def _noted(columns: tuple[str, ...]) -> Select[Any]:
    return select(runs.c.project_id, *(runs.c[column] for column in columns)).where(runs.c.id == bindparam("of_run"))


@lru_cache
def _setting(columns: tuple[str, ...]) -> Update:
    # Made once for each set of columns: most requests of a run change the same ones, and building it takes longer.
    given: dict[str, Any] = {column: bindparam(f"new_{column}") for column in columns}
    return update(runs).where(runs.c.id == bindparam("of_run")).values(given)


def ensure_pending(
    connection: Connection,
    project_id: int,
    run_name: str,
    *,
    user_id: int,
    now: float,
    display_name: str | None = None,
    sweep: str | None = None,
) -> int:
    """Return the run that a queue or sweep is going to start; made as pending if nobody knows it yet."""
    known = connection.scalar(_ID_BY_NAME, {"of_project": project_id, "named": run_name})
    if known is not None:
        return known
    named = {"display_name": display_name} if display_name else {}
    return create(connection, project_id, run_name, user_id=user_id, now=now, sweep=sweep, **named)


def request_stop(connection: Connection, run_id: int, now: float) -> None:
    """Note that somebody wants the run stopped; the first wish counts. No effect on a run that has ended."""
    connection.execute(
        update(runs)
        .where(
            runs.c.id == run_id,
            runs.c.stop_requested_at.is_(None),
            runs.c.ended_at.is_(None),
            runs.c.end_cause.is_(None),
        )
        .values(stop_requested_at=now, updated_at=now)
    )


def record_end(connection: Connection, run_id: int, cause: str, exit_code: int | None, now: float) -> None:
    """Note how somebody else says that a run ended. No effect on a run that has ended by its own word."""
    connection.execute(_RECORD_END, {"of_run": run_id, "cause": cause, "code": exit_code, "at": now})


def confirm_end(connection: Connection, run_id: int) -> None:
    """Note that a run which said that it failed will not be started again; no effect on others."""
    connection.execute(
        update(runs)
        .where(
            runs.c.id == run_id,
            runs.c.exit_code.is_not(None),
            runs.c.ended_at.is_(None),
            runs.c.end_cause.is_(None),
        )
        .values(ended_at=runs.c.heartbeat_at)
    )


def restart(connection: Connection, row: AnyRow, now: float) -> None:
    """Forget what an earlier run of the same id left: `wandb.init` with a known id and without resume."""
    streams.clear(connection, row.id, *Stream)
    counters = {"history_lines": 0, "event_lines": 0, "log_lines": 0, "last_step": -1}
    change(connection, row.id, now, **counters, summary="{}", system_metrics="{}")
    revive(connection, row, now)


def revive(connection: Connection, row: AnyRow, now: float) -> None:
    """Note that a client has taken the run up, perhaps again.

    A wish to stop belongs to one life of the run: it goes with a life that has ended, but holds for one that waits to
    start or goes on.
    """
    over = state(row, now).is_ended
    alive = {
        "started_at": now if row.started_at is None else row.started_at,
        "heartbeat_at": now,
        "ended_at": None,
        "exit_code": None,
        "end_cause": None,
        "preempting": False,
        "stop_requested_at": None if over else row.stop_requested_at,
    }
    change(connection, row.id, now, **alive)
    watched_runs.watch(connection, row.id)


def wait_again(connection: Connection, run_id: int, now: float) -> None:
    """Note that the run is going to be started once more, in a life of its own."""
    change(connection, run_id, now, **_NO_LIFE, stop_requested_at=None)


def await_retry(connection: Connection, run_id: int, now: float) -> None:
    """Note that the run is going to be started once more, by the same launch: a wish to stop that holds for both.

    A heartbeat of before that is written down after this has no effect: there is none that it could be newer than.
    """
    change(connection, run_id, now, **_NO_LIFE)


def remove(connection: Connection, run_id: int, now: float) -> None:
    """Delete a run: it is not found any more, but its name stays taken."""
    change(connection, run_id, now, deleted_at=now)
    run_values.forget(connection, run_id)


def count(connection: Connection, project_id: int, condition: ColumnElement[bool] | None = None) -> int:
    """Return how many runs of a project there are."""
    statement = (
        select(func.count()).select_from(runs).where(runs.c.project_id == project_id, runs.c.deleted_at.is_(None))
    )
    return connection.scalar(statement if condition is None else statement.where(condition)) or 0


def made(connection: Connection, project_id: int) -> int:
    """Return how many runs of a project there have been, deleted ones among them."""
    return connection.scalar(select(func.count()).where(runs.c.project_id == project_id)) or 0


def listing(
    connection: Connection,
    project_id: int,
    condition: ColumnElement[bool] | None,
    order: Order,
    behind: Sequence[Any] | None,
    limit: int,
) -> list[Listed]:
    """Return the runs of a project behind a place in an order, or the first ones."""
    chosen = and_(
        runs.c.project_id == project_id, runs.c.deleted_at.is_(None), true() if condition is None else condition
    )
    # In two steps, as long rows take long to sort.
    ordered = select(runs.c.id).select_from(order.source).where(chosen)
    page = connection.execute(places.page(ordered, order.keys, runs.c.id, behind, limit)).all()
    found = {row.id: row for row in connection.execute(_FULL.where(runs.c.id.in_([row.id for row in page])))}
    return [Listed(found[row.id], places.place_of(row, order.keys)) for row in page]


def set_tags(tags: list[str]) -> str:
    """Return tags as they are stored."""
    return json.dumps(tags)
