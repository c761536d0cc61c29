"""Runs in shared mode: several processes write to one run, and each numbers its lines by itself."""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from server.storage.streams import Line, Stream
from server.storage.tables import run_writers
from server.storage.upsert import upsert


def appended(
    connection: Connection, run_id: int, writer: str, stream: Stream, lines: Sequence[Line], end: int, behind: int
) -> tuple[list[Line], int]:
    """Return what is new of a writer's lines, numbered from `behind` on, and the number of the line that comes next.

    What the writer has sent before is left out, so that a request may be sent again. So a line that it rewrites, a
    progress bar, stays as it was first.
    """
    of_writer = (run_writers.c.run_id == run_id, run_writers.c.writer == writer, run_writers.c.stream == int(stream))
    taken = connection.scalar(select(run_writers.c.lines).where(*of_writer)) or 0
    if end <= taken:
        return [], behind
    row = {"run_id": run_id, "writer": writer, "stream": int(stream), "lines": end}
    upsert(connection, run_writers, [row], update=("lines",))
    first = max(taken, lines[0].number if lines else end)
    fresh = [line._replace(number=behind + line.number - first) for line in lines if line.number >= first]
    return fresh, behind + end - first
