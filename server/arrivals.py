"""Notes what has been uploaded.

Of a run's file that comes through this server it is noted as it comes. For all else somebody looks: who lists the files
of a run in a bucket, or who commits a version. So thousands of small contents cost the database nothing as they come.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, update

from server.context import Services
from server.object_store import ObjectInfo
from server.storage.tables import artifact_contents, run_files

# Made once, as every run has files.
_ARRIVED = (
    update(run_files)
    .where(run_files.c.object_key == bindparam("key"))
    .values(size_bytes=bindparam("size"), md5=bindparam("new_md5"), updated_at=bindparam("now"))
)


async def look_for_run_files(services: Services, keys: Sequence[str]) -> None:
    """Note which files of runs have arrived, unless the store tells by itself."""
    if not services.objects.tells_arrivals and keys:
        found = await services.objects.infos(keys)
        await services.database.write(_record_run_files, found, services.clock())


def _record_run_files(connection: Connection, found: Mapping[str, ObjectInfo], now: float) -> None:
    for key, info in found.items():
        record_run_file(connection, key, info, now)


def record_run_file(connection: Connection, key: str, info: ObjectInfo, now: float) -> None:
    """Note that a run's file has arrived."""
    connection.execute(_ARRIVED, {"key": key, "size": info.size_bytes, "new_md5": info.md5, "now": now})


async def look_for_contents(services: Services, keys: Sequence[str]) -> None:
    """Note which contents of artifacts have arrived."""
    if keys and (found := await services.objects.infos(keys)):
        await services.database.write(_record_contents, found)


def _record_contents(connection: Connection, found: Mapping[str, ObjectInfo]) -> None:
    statement = update(artifact_contents).where(artifact_contents.c.object_key == bindparam("key"))
    connection.execute(
        statement.values(size_bytes=bindparam("size")),
        [{"key": key, "size": info.size_bytes} for key, info in found.items()],
    )
