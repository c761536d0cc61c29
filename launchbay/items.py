"""Run queue items as commands see them."""

import base64
from collections.abc import Mapping
from typing import Any

from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneRefused
from launchbay.errors import NotThere
from protocol.json_types import dig
from protocol.names import QUEUE_PROJECT
from protocol.states import ItemState

ITEM_FIELDS = """id state priority status waitingReason associatedRunId exitCode createdAt claimedAt endedAt
  runSpec runQueue { name } agent { name } error { message stage filePaths } warnings { message stage filePaths }"""


def is_over(item: Mapping[str, Any]) -> bool:
    """Whether nothing more will happen to an item."""
    return ItemState(item["state"]).is_ended


async def item_by_id(server: ControlPlane, item_id: str) -> Mapping[str, Any]:
    """Return an item; `NotThere` if there is none that we may see."""
    try:
        data = await server.ask(f"query Item($id: ID!) {{ runQueueItem(id: $id) {{ {ITEM_FIELDS} }} }}", id=item_id)
    except ControlPlaneRefused as error:
        raise NotThere(f"There is no item {item_id!r}: {error}") from error
    if data["runQueueItem"] is None:
        raise NotThere(f"There is no item {item_id!r}. `launchbay status` lists the items.")
    return data["runQueueItem"]


async def queues_with_items(server: ControlPlane, entity: str, first: int) -> list[Mapping[str, Any]]:
    """Return the entity's queues, each with its newest items."""
    data = await server.ask(
        f"""query Status($entity: String!, $project: String!, $first: Int!) {{
              project(entityName: $entity, name: $project) {{
                runQueues {{
                  name pendingCount
                  runQueueItems(first: $first) {{ edges {{ node {{ {ITEM_FIELDS} }} }} }}
                }}
              }}
            }}""",
        entity=entity,
        project=QUEUE_PROJECT,
        first=first,
    )
    return data["project"]["runQueues"] if data["project"] else []


def looks_like_item(name: str) -> bool:
    """Whether a word is an item's id rather than a run's path."""
    try:
        return base64.b64decode(name, validate=True).startswith(b"RunQueueItem:")
    except ValueError:
        return False


async def item_of(server: ControlPlane, name: str, entity: str) -> Mapping[str, Any] | None:
    """Return the item behind ITEM or RUN on the command line; None for a run that no item started."""
    if looks_like_item(name):
        return await item_by_id(server, name)
    run_id = name.rsplit("/", 1)[-1]
    for queue in await queues_with_items(server, entity, 1000):
        for edge in queue["runQueueItems"]["edges"]:
            if edge["node"]["associatedRunId"] == run_id:
                return edge["node"]
    return None


def run_path(name: str, entity: str) -> tuple[str, str, str]:
    """Split ENTITY/PROJECT/RUN, or PROJECT/RUN of one's own entity."""
    parts = name.split("/")
    if len(parts) == 2:
        parts = [entity, *parts]
    if len(parts) != 3:
        raise NotThere(f"{name!r} is neither an item's id nor a run as [ENTITY/]PROJECT/RUN.")
    return parts[0], parts[1], parts[2]


def shown_job(item: Mapping[str, Any]) -> str:
    """Return for people what an item runs."""
    spec = item["runSpec"]
    return dig(spec, "job") or dig(spec, "docker", "docker_image") or dig(spec, "uri") or "-"


def shown_reason(item: Mapping[str, Any]) -> str:
    """Return in a line why an item failed, or why it is not running yet. `launchbay logs` shows all of a failure."""
    why = item["error"]["message"] if item["error"] else item["waitingReason"] or ""
    return why.split("\n", 1)[0].removesuffix(" Last lines:")
