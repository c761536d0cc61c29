"""Databases as they are after long work: many runs, and a long history."""

import json
from typing import Any

from sqlalchemy import Connection, insert

from server.database import Database
from server.storage import projects, run_values, runs, streams, users
from server.storage.run_values import Place
from server.storage.streams import Line, Stream
from server.storage.tables import run_values as values_table
from server.storage.tables import runs as runs_table

PROJECT = "bench"
LONG_RUN = "long"
BATCH = 1000


async def fill_runs(database: Database, count: int) -> None:
    """Make runs as they are after training, with ten values in the config and in the summary."""

    def batch(connection: Connection, start: int, size: int) -> None:
        user = users.user_by_name(connection, "admin")
        assert user is not None
        project_id, _ = projects.ensure(connection, user.entity_id, PROJECT, user_id=user.id, now=0)
        rows: list[dict[str, Any]] = []
        for number in range(start, start + size):
            share = number * 7919 % count / count
            config = {"lr": 1 - share, "optimizer": "adam" if number % 2 else "sgd", "name": f"model-{number % 97}"}
            config |= {f"option_{index}": index * number for index in range(7)}
            summary = {"loss": share, "_step": 1000, "_runtime": number % 3600, "_timestamp": 1.8e9 + number}
            summary |= {f"metric_{index}": share * index for index in range(7)}
            rows.append(
                {
                    **dict.fromkeys(column.name for column in runs_table.c if column.name != "id"),
                    "project_id": project_id,
                    "name": f"r{number}",
                    "display_name": f"run-{number}",
                    "created_by": user.id,
                    "config": json.dumps({key: {"value": value} for key, value in config.items()}),
                    "summary": json.dumps(summary),
                    "system_metrics": "{}",
                    "tags": json.dumps([f"tag-{number % 10}"]),
                    "preempting": False,
                    "started_at": 1.7e9 + number,
                    "heartbeat_at": 1.7e9 + 60 + number,
                    "ended_at": 1.7e9 + 60 + number,
                    "exit_code": number % 5 == 0,
                    "history_lines": 1001,
                    "event_lines": 0,
                    "log_lines": 0,
                    "last_step": 1000,
                    "created_at": 1.7e9 + number,
                    "updated_at": 1.7e9 + number,
                }
            )
        made = insert(runs_table).returning(runs_table.c.id, sort_by_parameter_order=True)
        for row, run_id in zip(rows, connection.scalars(made, rows), strict=True):
            row["id"] = run_id
        found = [
            {
                "run_id": row["id"],
                "place": int(place),
                "path": path,
                "element": element,
                "project_id": project_id,
                **value._asdict(),
            }
            for row in rows
            for column, place in (("config", Place.CONFIG), ("summary", Place.SUMMARY), ("tags", Place.TAGS))
            for (path, element), value in run_values.values_in(place, row[column]).items()
        ]
        connection.execute(insert(values_table), found)

    for start in range(0, count, BATCH):
        await database.write(batch, start, min(BATCH, count - start))


async def fill_history(database: Database, count: int) -> None:
    """Make a run that has logged for long; some rows have a key that the others lack."""

    def make(connection: Connection) -> int:
        user = users.user_by_name(connection, "admin")
        assert user is not None
        project_id, _ = projects.ensure(connection, user.entity_id, PROJECT, user_id=user.id, now=0)
        return runs.create(
            connection, project_id, LONG_RUN, user_id=user.id, now=0, history_lines=count, last_step=count - 1
        )

    def batch(connection: Connection, start: int, size: int) -> None:
        lines = [Line(number, json.dumps(long_row(number, count)), number) for number in range(start, start + size)]
        streams.store(connection, run_id, Stream.HISTORY, lines)

    run_id = await database.write(make)
    for start in range(0, count, BATCH):
        await database.write(batch, start, min(BATCH, count - start))


def history_row(step: int) -> dict[str, Any]:
    """Return what a step logs: five metrics beside the client's own three."""
    metrics = {f"metric_{index}": index / (step + 1) for index in range(4)}
    return {"loss": 1 / (step + 1), **metrics, "_step": step, "_runtime": step / 10, "_timestamp": 1.8e9 + step / 10}


def long_row(step: int, count: int) -> dict[str, Any]:
    """Return a row of the long run: every hundredth has one key more, and a few at the end another one."""
    rare = {"rare": step} if step % 100 == 0 else {}
    return history_row(step) | rare | ({"late": step} if step >= count - 300 else {})
