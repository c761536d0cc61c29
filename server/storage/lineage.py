"""Which runs made which artifact versions (role `output`), and which used them (`input`)."""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, func, select, true, update

from server.storage import tables
from server.storage.artifacts import FULL
from server.storage.rows import AnyRow
from server.storage.tables import artifacts, projects, run_artifacts, runs
from server.storage.upsert import upsert


def record_output(connection: Connection, run_id: int, artifact_id: int, now: float) -> None:
    """Note that a run logged a version. The first run to do so is its maker."""
    _record(connection, run_id, artifact_id, "output", now, None)
    connection.execute(
        update(artifacts)
        .where(artifacts.c.id == artifact_id, artifacts.c.created_by_run.is_(None))
        .values(created_by_run=run_id)
    )


def record_input(connection: Connection, run_id: int, artifact_id: int, now: float, used_as: str | None) -> None:
    """Note that a run uses a version."""
    _record(connection, run_id, artifact_id, "input", now, used_as)


def _record(connection: Connection, run_id: int, artifact_id: int, role: str, now: float, used_as: str | None) -> None:
    row = {"run_id": run_id, "artifact_id": artifact_id, "role": role, "used_as": used_as, "created_at": now}
    upsert(connection, run_artifacts, [row], update=())


def made_by(connection: Connection, run_id: int) -> Sequence[int]:
    """Return the versions that a run was the first to log."""
    return connection.scalars(select(artifacts.c.id).where(artifacts.c.created_by_run == run_id)).all()


def of_run(
    connection: Connection, run_id: int, role: str, entities: Collection[str] | None, after: int, limit: int
) -> list[AnyRow]:
    """Return a page of the committed versions of a run, in the order of their making; of these entities or of all."""
    return list(
        connection.execute(
            FULL.join(run_artifacts, run_artifacts.c.artifact_id == artifacts.c.id)
            .where(_committed_of(run_id, role, entities), artifacts.c.id > after)
            .order_by(artifacts.c.id)
            .limit(limit)
        )
    )


def count_of_run(connection: Connection, run_id: int, role: str, entities: Collection[str] | None) -> int:
    """Return how many committed versions a run logged or used, of these entities or of all."""
    of_run = FULL.join(run_artifacts, run_artifacts.c.artifact_id == artifacts.c.id)
    statement = of_run.where(_committed_of(run_id, role, entities)).with_only_columns(func.count())
    return connection.scalar(statement) or 0


def _committed_of(run_id: int, role: str, entities: Collection[str] | None) -> ColumnElement[bool]:
    of_run = (run_artifacts.c.run_id == run_id) & (run_artifacts.c.role == role)
    open_to_viewer = true() if entities is None else tables.entities.c.name.in_(entities)
    return of_run & (artifacts.c.state == "COMMITTED") & open_to_viewer


def uses(artifact_id: int) -> ColumnElement[bool]:
    """Return the condition on runs that they use a version."""
    users = select(run_artifacts.c.run_id).where(
        run_artifacts.c.artifact_id == artifact_id, run_artifacts.c.role == "input"
    )
    return runs.c.id.in_(users)


def projects_of_users(connection: Connection, artifact_id: int) -> Sequence[AnyRow]:
    """Return the projects whose runs use a version: `id` and `entity_name`."""
    of_users = select(runs.c.project_id).where(uses(artifact_id))
    statement = (
        select(projects.c.id, tables.entities.c.name.label("entity_name"))
        .join(tables.entities, tables.entities.c.id == projects.c.entity_id)
        .where(projects.c.id.in_(of_users))
    )
    return connection.execute(statement.order_by(projects.c.id)).all()
