"""Makes the runs of a sweep: what its search has found, for an agent, or what somebody asks for, for the next one."""

import json
from collections.abc import Mapping
from random import Random

from sqlalchemy import Connection

from protocol import names
from protocol.json_types import JsonObject
from server.display_names import ADJECTIVES
from server.errors import RequestError
from server.storage import runs, sweep_runs, sweeps
from server.storage.rows import AnyRow
from server.sweeps.states import SweepState


def create(
    connection: Connection,
    sweep: AnyRow,
    args: JsonObject,
    *,
    display_name: str | None = None,
    user_id: int,
    random: Random,
    now: float,
) -> AnyRow:
    """Make a run with these parameters, named after its number in the sweep unless told otherwise."""
    name = _fresh_name(connection, sweep.project_id, random)
    number = sweep_runs.made(connection, sweep.id).all + 1
    run_id = runs.create(
        connection,
        sweep.project_id,
        name,
        user_id=user_id,
        now=now,
        display_name=display_name or f"{random.choice(ADJECTIVES)}-sweep-{number}",
        sweep=sweep.name,
        config=json.dumps(args),
    )
    return runs.by_id(connection, run_id)


def enqueue(
    connection: Connection,
    sweep_id: int,
    config: JsonObject,
    display_name: str | None,
    *,
    user_id: int,
    random: Random,
    now: float,
) -> AnyRow:
    """Put a run into a sweep, for the next agent that asks; `RequestError` if the sweep is over.

    `config` is that of a run: `{"lr": 0.1}`, or as agents get it: `{"lr": {"value": 0.1}}`. A `run_cap` bounds what the
    search makes beside such runs, not them: local schedulers enqueue some more than that.
    """
    sweeps.lock(connection, sweep_id)
    sweep = sweeps.by_id(connection, sweep_id)
    if SweepState(sweep.state).is_over:
        raise RequestError(
            f"Sweep {sweep.name!r} is {sweep.state.lower()}, so no agent would start the run. Make a new sweep for it."
        )
    args = _as_args(config)
    run = create(connection, sweep, args, display_name=display_name, user_id=user_id, random=random, now=now)
    sweep_runs.enqueue(connection, run.id, sweep.id, json.dumps(args))
    sweeps.change(connection, sweep.id, now)
    return run


def _as_args(config: JsonObject) -> JsonObject:
    if all(isinstance(value, Mapping) and "value" in value for value in config.values()):
        return config
    return {name: {"value": value} for name, value in config.items()}


def _fresh_name(connection: Connection, project_id: int, random: Random) -> str:
    while True:
        name = names.run_id(random)
        if runs.by_name(connection, project_id, name, deleted=True) is None:
            return name
