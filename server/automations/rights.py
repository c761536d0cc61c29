"""Who may change an automation, and whose rights it acts with."""

from sqlalchemy import Connection

from server.context import Viewer
from server.registry_roles import Role
from server.storage import automations, teams, users
from server.storage.rows import AnyRow


def may_change(connection: Connection, viewer: Viewer, automation: AnyRow) -> bool:
    """Whether somebody may change an automation: in a registry its admins, elsewhere the members of its entity."""
    project_id = automations.project_of(connection, automation)
    if project_id is None:
        return viewer.may_use(automation.entity_name)
    return viewer.has_role(Role.ADMIN, automation.entity_name, project_id)


def may_send(connection: Connection, automation_id: int, integration_entity: str) -> bool:
    """Whether an automation may still send to an integration of that entity.

    To one of its own entity it may. That it sends to another's is on the account of who said so, and ends with his
    rights in either: who leaves a team hears no more of it, and starts nothing there.
    """
    automation = automations.by_id(connection, automation_id)
    if automation is None or automation.entity_name == integration_entity:
        return automation is not None
    if not teams.is_user(connection, automation.created_by):
        return False
    maker = users.viewer_by_id(connection, automation.created_by)
    return maker.may_use(integration_entity) and may_change(connection, maker, automation)
