"""Notes what has been uploaded: as it comes, where uploads come through this server; by looking, where they do not."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import Connection, update

from server.context import Services
from server.object_store import ObjectInfo
from server.storage.tables import artifact_contents, run_files


async def look_for(services: Services, keys: Sequence[str]) -> None:
    """Note which of these objects have arrived, unless the store tells by itself."""
    if services.objects.tells_arrivals or not keys:
        return
    found = await asyncio.gather(*(services.objects.info(key) for key in keys))
    arrived = [(key, info) for key, info in zip(keys, found, strict=True) if info is not None]
    if arrived:
        await services.database.write(_record_all, arrived, services.clock())


def record(connection: Connection, key: str, info: ObjectInfo, now: float) -> None:
    """Note on whatever was waiting for this object that it has arrived."""
    connection.execute(
        update(run_files)
        .where(run_files.c.object_key == key)
        .values(size_bytes=info.size_bytes, md5=info.md5, updated_at=now)
    )
    connection.execute(
        update(artifact_contents).where(artifact_contents.c.object_key == key).values(size_bytes=info.size_bytes)
    )


def _record_all(connection: Connection, arrived: Sequence[tuple[str, ObjectInfo]], now: float) -> None:
    for key, info in arrived:
        record(connection, key, info, now)
