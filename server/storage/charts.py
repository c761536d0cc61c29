"""Charts that people make, each of an entity. What one shows is the client's text."""

from sqlalchemy import Connection, select

from server.storage.rows import AnyRow
from server.storage.tables import charts, entities
from server.storage.upsert import upsert


def keep(
    connection: Connection, entity_id: int, name: str, *, display_name: str, kind: str, access: str, spec: str
) -> None:
    """Store a chart; one of that name becomes this."""
    values = {"display_name": display_name, "kind": kind, "access": access, "spec": spec}
    upsert(connection, charts, [{"entity_id": entity_id, "name": name, **values}], update=list(values))


def find(connection: Connection, entity: str, name: str) -> AnyRow | None:
    """Return the chart of that name, with its entity's."""
    statement = select(charts, entities.c.name.label("entity_name")).join(entities)
    return connection.execute(statement.where(entities.c.name == entity, charts.c.name == name)).first()
