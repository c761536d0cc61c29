"""`/launchbay/item-log`: agents append the output of a launch while it runs, people read and follow it.

Ours, not part of the protocol. Pieces carry their offset, so sending one twice is harmless and reading can be resumed.
With `Prefer: wait=N` a reader who is at the end waits for more. `Launchbay-Ended: true` says that no more will come.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web
from sqlalchemy import Connection, bindparam, select

from protocol.states import ItemState
from server import ids
from server.context import Context
from server.errors import NotFound, RequestError
from server.storage import item_logs
from server.storage.tables import entities, projects, run_queue_items, run_queues
from server.wakeups import wait

READ_BYTES = 1024 * 1024
MAX_DIGITS = 15

# Made once, as every piece of output needs it.
_STATE = (
    select(run_queue_items.c.state, entities.c.name)
    .join(run_queues, run_queues.c.id == run_queue_items.c.queue_id)
    .join(projects, projects.c.id == run_queues.c.project_id)
    .join(entities, entities.c.id == projects.c.entity_id)
    .where(run_queue_items.c.id == bindparam("of_item"))
)

ContextOf = Callable[[web.Request], Awaitable[Context]]


def add(app: web.Application, context_of: ContextOf) -> None:
    """Serve the log of items."""

    async def append(request: web.Request) -> web.Response:
        context = await context_of(request)
        item_id = ids.decode("RunQueueItem", request.query.get("item", ""))
        content = await request.read()
        offset = _number(request, "offset")

        def work(connection: Connection) -> int:
            _check(connection, context, item_id)
            return item_logs.append(connection, item_id, offset, content)

        end = await context.services.database.write(work)
        context.services.wakeups.notify(("item-log", item_id))
        return web.json_response({"size": end})

    async def read(request: web.Request) -> web.Response:
        context = await context_of(request)
        item_id = ids.decode("RunQueueItem", request.query.get("item", ""))
        since = _number(request, "since")

        def work(connection: Connection) -> tuple[bytes, bool]:
            ended = _check(connection, context, item_id)
            return item_logs.read(connection, item_id, since, READ_BYTES), ended

        with context.services.wakeups.listening([("item-log", item_id)]) as event:
            content, ended = await context.services.database.read(work)
            if not content and not ended and context.wait_seconds:
                await wait(event, context.wait_seconds)
                content, ended = await context.services.database.read(work)
        headers = {"Launchbay-Ended": str(ended and not content).lower()}
        return web.Response(body=content, content_type="application/octet-stream", headers=headers)

    app.router.add_post("/launchbay/item-log", append)
    app.router.add_get("/launchbay/item-log", read)


def _number(request: web.Request, name: str) -> int:
    given = request.query.get(name, "0")
    if not given.isdecimal() or len(given) > MAX_DIGITS:
        raise RequestError(f"`{name}` is {given!r}; it counts bytes from 0 on.")
    return int(given)


def _check(connection: Connection, context: Context, item_id: int) -> bool:
    """Return whether the item has ended; `NotFound` if there is none that the viewer may see."""
    row = connection.execute(_STATE, {"of_item": item_id}).first()
    if row is None or not context.viewer.may_use(row.name):
        raise NotFound("There is no such item, or you may not see it.")
    return ItemState(row.state).is_ended
