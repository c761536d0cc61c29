"""A run's state follows from recorded facts."""

import itertools

import pytest
from sqlalchemy import Connection, insert, select

from protocol.states import RunState
from server.context import Services
from server.run_state import HEARTBEAT_TIMEOUT_SECONDS, RunFacts, state_of
from server.storage import projects, runs, users
from server.storage import tables as t

NOW = 1_000_000.0
FRESH = NOW - HEARTBEAT_TIMEOUT_SECONDS
SILENT = FRESH - 1


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (RunFacts(), RunState.PENDING),
        (RunFacts(stop_requested_at=SILENT), RunState.PENDING),
        (RunFacts(started_at=SILENT, heartbeat_at=FRESH), RunState.RUNNING),
        (RunFacts(started_at=FRESH), RunState.RUNNING),
        (RunFacts(started_at=SILENT, heartbeat_at=FRESH, stop_requested_at=FRESH), RunState.RUNNING),
        (RunFacts(started_at=SILENT, heartbeat_at=FRESH, preempting=True), RunState.PREEMPTING),
        (RunFacts(started_at=SILENT, heartbeat_at=SILENT), RunState.CRASHED),
        (RunFacts(started_at=SILENT), RunState.CRASHED),
        (RunFacts(started_at=SILENT, heartbeat_at=SILENT, preempting=True), RunState.PREEMPTED),
        (RunFacts(started_at=SILENT, ended_at=FRESH, exit_code=0), RunState.FINISHED),
        (RunFacts(started_at=SILENT, ended_at=FRESH, exit_code=0, stop_requested_at=FRESH), RunState.FINISHED),
        (RunFacts(started_at=SILENT, ended_at=FRESH, exit_code=0, preempting=True), RunState.FINISHED),
        (RunFacts(started_at=SILENT, ended_at=FRESH), RunState.FINISHED),
        (RunFacts(started_at=SILENT, ended_at=FRESH, exit_code=1), RunState.FAILED),
        (RunFacts(started_at=SILENT, ended_at=FRESH, exit_code=255), RunState.FAILED),
        (RunFacts(started_at=SILENT, ended_at=FRESH, exit_code=255, stop_requested_at=FRESH), RunState.KILLED),
        (RunFacts(started_at=SILENT, ended_at=FRESH, exit_code=1, preempting=True), RunState.PREEMPTED),
        (RunFacts(started_at=SILENT, heartbeat_at=FRESH, exit_code=1), RunState.RUNNING),
        (RunFacts(started_at=SILENT, heartbeat_at=FRESH, exit_code=1, preempting=True), RunState.PREEMPTING),
        (RunFacts(started_at=SILENT, heartbeat_at=SILENT, exit_code=1), RunState.FAILED),
        (RunFacts(started_at=SILENT, heartbeat_at=SILENT, exit_code=1, preempting=True), RunState.PREEMPTED),
        (RunFacts(end_cause=RunState.FAILED), RunState.FAILED),
        (RunFacts(started_at=SILENT, heartbeat_at=FRESH, end_cause=RunState.KILLED), RunState.KILLED),
        (RunFacts(started_at=SILENT, heartbeat_at=SILENT, end_cause=RunState.FINISHED), RunState.FINISHED),
    ],
)
def test_state_follows_from_facts(facts: RunFacts, state: RunState) -> None:
    assert state_of(facts, NOW) is state


async def test_sql_and_the_function_agree_on_every_combination_of_facts(services: Services) -> None:
    """Filters by state use an expression in SQL; it must say what the function says."""
    combinations = itertools.product(
        (None, SILENT, FRESH),  # started_at
        (None, SILENT, FRESH),  # heartbeat_at
        (None, FRESH),  # ended_at
        (None, 0, 1, 255),  # exit_code
        (None, "failed", "killed"),  # end_cause
        (False, True),  # preempting
        (None, FRESH),  # stop_requested_at
    )
    names = ("started_at", "heartbeat_at", "ended_at", "exit_code", "end_cause", "preempting", "stop_requested_at")

    def work(connection: Connection) -> list[tuple[str, str]]:
        owner = users.user_by_name(connection, "admin")
        assert owner is not None
        project_id, _ = projects.ensure(connection, owner.entity_id, "p", user_id=owner.id, now=NOW)
        run_id = runs.create(connection, project_id, "sample", user_id=owner.id, now=NOW)
        sample = connection.execute(select(t.runs).where(t.runs.c.id == run_id)).one()._asdict()
        rows = [
            {**sample, "id": number, "name": f"run-{number}", **dict(zip(names, facts, strict=True))}
            for number, facts in enumerate(combinations, run_id + 1)
        ]
        connection.execute(insert(t.runs), rows)
        found = connection.execute(select(t.runs, runs.state_expression(NOW).label("in_sql")))
        return [(row.in_sql, runs.state(row, NOW).value) for row in found]

    pairs = await services.database.write(work)
    assert len(pairs) == 3 * 3 * 2 * 4 * 3 * 2 * 2 + 1
    assert [in_sql for in_sql, _ in pairs] == [by_function for _, by_function in pairs]
    assert {state for state, _ in pairs} == {state.value for state in RunState}
