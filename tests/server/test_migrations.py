"""The revisions lead to the schema that the code uses."""

from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Table, create_engine, event, select, text

from server.migrations.upgrade import upgrade
from server.storage import tables
from server.storage.tables import metadata


def test_an_empty_database_gets_the_schema_of_the_code(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    upgrade(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_upgrading_again_changes_nothing(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO entities (name, kind, created_at) VALUES ('kept', 'user', 0)"))
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT name FROM entities")) == "kept"
    engine.dispose()


def test_items_and_what_refers_to_them_are_kept_and_no_id_comes_again(tmp_path: Path) -> None:
    """SQLite gave the id of a deleted item to the next one."""
    engine = create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
    upgrade(engine, "0010")
    with engine.begin() as connection:
        entity = _add(connection, tables.entities, name="admin", kind="user", created_at=0)
        user = _add(connection, tables.users, username="admin", entity_id=entity, default_entity_id=entity)
        project = _add(connection, tables.projects, entity_id=entity, name="p", created_by=user)
        queue = _add(connection, tables.run_queues, project_id=project, name="q", created_by=user)
        first = _add_item(connection, queue, user)
        newest = _add_item(connection, queue, user)
        _add(connection, tables.item_log_chunks, item_id=newest)
    upgrade(engine)
    with engine.begin() as connection:
        assert connection.scalars(select(tables.run_queue_items.c.id)).all() == [first, newest]
        assert connection.scalar(select(tables.item_log_chunks.c.item_id)) == newest
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        connection.execute(tables.run_queue_items.delete().where(tables.run_queue_items.c.id == newest))
        assert connection.scalar(select(tables.item_log_chunks.c.item_id)) is None
        assert _add_item(connection, queue, user) > newest
    engine.dispose()


def test_runs_of_sweeps_are_kept_as_what_the_search_has_made(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    upgrade(engine, "0011")
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO sweep_runs (run_id, sweep_id, agent_id, args, hand_outs, taken) VALUES (7, 1, 2, '', 1, 1)"
            )
        )
    upgrade(engine)
    with engine.begin() as connection:
        kept = connection.execute(select(tables.sweep_runs)).one()
        assert (kept.run_id, kept.sweep_id, kept.agent_id, kept.enqueued, kept.taken) == (7, 1, 2, False, True)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def _add_item(connection: Connection, queue: int, user: int) -> int:
    return _add(connection, tables.run_queue_items, queue_id=queue, created_by=user, state="PENDING")


def _add(connection: Connection, table: Table, **values: Any) -> int:
    """Add a row, with something in each of the other columns that want a value; returns its id."""
    wanted = {
        column.name: column.type.python_type()
        for column in table.columns
        if not column.nullable and column.name != "id"
    }
    return connection.execute(table.insert(), wanted | values).inserted_primary_key[0]  # type: ignore[index]
