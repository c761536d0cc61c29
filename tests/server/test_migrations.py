"""The revisions lead to the schema that the code uses."""

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from server.migrations.upgrade import upgrade
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
