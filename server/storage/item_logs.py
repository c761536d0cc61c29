"""The output of launches, as bytes by offset: whatever a job wrote, also if it never called `wandb.init`."""

from sqlalchemy import Connection, bindparam, func, insert, literal_column, select

from server.errors import RequestError
from server.storage.tables import item_log_chunks

MAX_LOG_BYTES = 64 * 1024 * 1024
"""More than anybody reads of one launch; what comes behind is not kept."""

# Made once, as every launch needs them.
_LAST = (
    select(item_log_chunks.c.offset, func.length(item_log_chunks.c.content).label("length"))
    .where(item_log_chunks.c.item_id == bindparam("of_item"))
    .order_by(item_log_chunks.c.offset.desc())
    .limit(literal_column("1"))
)
_INSERT = insert(item_log_chunks)


def size(connection: Connection, item_id: int) -> int:
    """Return how many bytes of the item's output are here."""
    last = connection.execute(_LAST, {"of_item": item_id}).first()
    return last.offset + last.length if last else 0


def append(connection: Connection, item_id: int, offset: int, content: bytes) -> int:
    """Add output that starts at `offset`; returns how much is here now. What is here already is not doubled."""
    known = size(connection, item_id)
    if known >= MAX_LOG_BYTES:
        return known
    if offset > known:
        raise RequestError(
            f"The log ends at byte {known}; a piece at byte {offset} would leave a gap. Send from {known}."
        )
    fresh = content[known - offset :][: max(MAX_LOG_BYTES - known, 0)]
    if fresh:
        connection.execute(_INSERT, {"item_id": item_id, "offset": known, "content": fresh})
    return known + len(fresh)


def read(connection: Connection, item_id: int, since: int, limit: int) -> bytes:
    """Return output from byte `since` on, at least one byte if there is any, and not much more than `limit`."""
    first = connection.scalar(
        select(func.max(item_log_chunks.c.offset)).where(
            item_log_chunks.c.item_id == item_id, item_log_chunks.c.offset <= since
        )
    )
    rows = connection.execute(
        select(item_log_chunks.c.offset, item_log_chunks.c.content)
        .where(item_log_chunks.c.item_id == item_id, item_log_chunks.c.offset >= (first or 0))
        .order_by(item_log_chunks.c.offset)
    )
    found = b""
    for row in rows:
        found += row.content[max(since - row.offset, 0) :]
        if len(found) >= limit:
            break
    return found
