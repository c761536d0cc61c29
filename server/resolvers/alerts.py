"""Alerts of runs: kept, listed, and sent to the integrations that ask for them."""

from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import ids
from server.automations.event_types import RUN_ALERT
from server.context import Context
from server.graphql import Info, Resolvers
from server.resolvers.paging import Page
from server.resolvers.runs import find
from server.storage import alerts, deliveries, integrations
from server.times import iso

resolvers = Resolvers()


@resolvers.field("Mutation", "notifyScriptableRunAlert")
async def alert(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take an alert of a run. One that comes again too soon under the same title is dropped, as the run wants it."""
    context = info.context
    await context.services.database.write(_alert, context, input)
    return {"success": True}


def _alert(connection: Connection, context: Context, input: dict[str, Any]) -> None:
    run = find(connection, context, input["entityName"], input["projectName"], input["runName"])
    title, text, severity = input["title"], input["text"], input.get("severity") or "INFO"
    pause_seconds = (input.get("waitDuration") or 0) / 1000
    if alerts.is_repeated(connection, run.id, title, context.now - pause_seconds):
        return
    alerts.add(connection, run.id, title=title, text=text, severity=severity, now=context.now)
    variables = {
        "event_type": RUN_ALERT,
        "event_author": run.username,
        "entity_name": run.entity_name,
        "project_name": run.project_name,
        "run_id": run.name,
        "run_name": run.display_name,
        "alert_title": title,
        "alert_text": text,
        "alert_severity": severity,
    }
    for integration in integrations.for_alerts(connection, run.id):
        deliveries.add(
            connection,
            entity_id=run.entity_id,
            automation_id=None,
            integration_id=integration.id,
            event_type=RUN_ALERT,
            variables=variables,
            now=context.now,
        )


@resolvers.field("Entity", "alerts")
async def alert_list(entity: dict[str, Any], info: Info, first: int | None = None) -> list[JsonObject]:
    """List what runs have alerted to."""
    context = info.context
    if not context.viewer.may_use(entity["name"]):
        return []
    rows = await context.services.database.read(alerts.newest, entity["row_id"], Page.of(first, None).limit)
    return [
        {
            "id": ids.encode("Alert", row.id),
            "title": row.title,
            "text": row.text,
            "severity": row.severity,
            "createdAt": iso(row.created_at),
            "projectName": row.project_name,
            "runName": row.run_name,
            "runDisplayName": row.run_display_name,
        }
        for row in rows
    ]
