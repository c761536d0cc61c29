"""Brings a database's schema up to date when the server starts."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply every revision up to `revision` that the database lacks, in one transaction."""
    with engine.connect() as connection, _without_cascades(connection), connection.begin():
        upgrade_connection(connection, revision)


def upgrade_connection(connection: Connection, revision: str = "head") -> None:
    """Do the same inside the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


@contextmanager
def _without_cascades(connection: Connection) -> Generator[None]:
    """Let revisions put a new table in another's place: in SQLite, all that refers to the old one went with it.

    It heeds this between transactions only.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    raw: Any = connection.connection.driver_connection
    (enforced,) = raw.execute("PRAGMA foreign_keys").fetchone()
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        raw.execute(f"PRAGMA foreign_keys={enforced}")
