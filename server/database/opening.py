"""Chooses the engine: PostgreSQL by URL, else SQLite in the data folder."""

from pathlib import Path

from server.database import Database, DatabaseUnusable
from server.database.sqlite import SqliteDatabase


async def open_database(data_dir: Path, url: str | None) -> Database:
    """Open the database and bring its schema up to date; `DatabaseUnusable` if that cannot be done."""
    if url is None:
        return await SqliteDatabase.open(data_dir / "launchbay.db")
    try:
        from server.database import postgresql
    except ImportError as error:
        raise DatabaseUnusable(
            "PostgreSQL needs one more package. Install it with: pip install 'launchbay[postgres]'"
        ) from error
    return await postgresql.PostgresDatabase.open(postgresql.parse_url(url))
