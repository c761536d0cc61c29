"""Charts that people make, as presets of what `wandb.plot_table` shows."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server.context import Context
from server.errors import NotFound, RequestError
from server.graphql import Info, Resolvers
from server.storage import charts, users
from server.storage.rows import AnyRow

resolvers = Resolvers()

PRIVATE, PUBLIC = "PRIVATE", "PUBLIC"
MAX_NAME = 128


@resolvers.field("Query", "customChart")
async def custom_chart(_root: object, info: Info, id: str) -> JsonObject:
    """Return a chart: one of an entity of the viewer's, or one that is everybody's."""
    entity, _, name = id.partition("/")
    return _node(await info.context.services.database.read(_visible, info.context, entity, name))


@resolvers.field("Mutation", "createCustomChart")
async def create_custom_chart(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a chart. The one of that name, if there is one, becomes this: a script that makes it can run again."""
    context = info.context
    entity, name = input["entity"], input["name"]
    context.viewer.must_use(entity)
    if not 0 < len(name) <= MAX_NAME:
        raise RequestError(f"A chart's name has 1 to {MAX_NAME} characters, not {len(name)}.")
    if input["access"] not in {PRIVATE, PUBLIC}:
        raise RequestError(f"A chart cannot have the access {input['access']!r}. Use one of: {PRIVATE}, {PUBLIC}.")

    def work(connection: Connection) -> AnyRow:
        charts.keep(
            connection,
            users.entity_id(connection, entity),
            name,
            display_name=input["displayName"],
            kind=input["type"],
            access=input["access"],
            spec=input["spec"],
        )
        return _visible(connection, context, entity, name)

    return {"chart": _node(await context.services.database.write(work))}


def _visible(connection: Connection, context: Context, entity: str, name: str) -> AnyRow:
    row = charts.find(connection, entity, name)
    if row is None or not (row.access == PUBLIC or context.viewer.may_use(entity)):
        raise NotFound("There is no such chart.")
    return row


def _node(row: AnyRow) -> JsonObject:
    return {
        "id": f"{row.entity_name}/{row.name}",
        "name": row.name,
        "displayName": row.display_name,
        "type": row.kind,
        "access": row.access,
        "spec": row.spec,
    }
