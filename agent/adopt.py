"""Adopt: find what runs on the platforms and is ours, though the journal does not know it: the labels are the journal.

That is so when the state folder was lost. What is labelled with our name is taken over, if the server agrees that its
item is not over and nobody else's; otherwise it is an orphan, and put down.
"""

import asyncio

import structlog

from agent import operations
from agent.admission.admit import assigned_by
from agent.caches.image_environments import ENVIRONMENT_LABEL
from agent.context import AgentContext
from agent.launch import Launch, Stage
from agent.prepare import uses_by
from backends.base import Backend, BackendError, BackendUnavailable, Handle, Observation
from protocol.json_types import JsonObject

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0


async def adopt(context: AgentContext, resource: str, backend: Backend) -> tuple[list[Launch], list[Handle]]:
    """Return the launches of one backend that are ours and not held yet, written down; and the orphans there.

    Raises `BackendUnavailable`.
    """
    adopted: list[Launch] = []
    orphans: list[Handle] = []
    for handle, seen in (await backend.observe()).items():
        if seen.labels.get("owner") != context.owner or seen.labels.get("item", "") in context.launches:
            continue
        name = seen.labels.get(ENVIRONMENT_LABEL) if "item" not in seen.labels else None
        if name and context.image_environments.is_making(name):
            continue
        launch = None if name else await _take_over(context, resource, handle, seen)
        if launch is None:
            about = {key: seen.labels.get(key) for key in ("item", "attempt", "queue")}
            log.warning("found an orphan: what it was for is over, or somebody else's", handle=handle, **about)
            orphans.append(handle)
        else:
            log.info("adopted a launch by its labels", run=launch.run_id, **launch.log_fields)
            await context.journal.record(launch)
            adopted.append(launch)
    return adopted, orphans


async def put_down(context: AgentContext, backend: Backend, handle: Handle) -> None:
    """Stop an orphan, and remove what is left of it."""
    try:
        await backend.stop(handle, context.config.stopped_run_timeout)
        while not await _is_over(backend, handle):  # noqa: ASYNC110 -- too rare for a subscription to changes
            await asyncio.sleep(LOOK_SECONDS)
        await backend.cleanup(handle)
    except (BackendError, BackendUnavailable) as error:
        log.warning(
            "cannot put the orphan down; the next start of the agent tries again", handle=handle, error=str(error)
        )


async def _take_over(context: AgentContext, resource: str, handle: Handle, seen: Observation) -> Launch | None:
    labels = seen.labels
    spec: JsonObject | None = {"entity": labels.get("entity", ""), "project": labels.get("project", "")}
    if context.facts.is_launchbay:
        spec = await context.server.persist(
            lambda: operations.adopt(context.server, labels["item"], labels["run"], context.identity.agent_id),
            doing="adopting an item",
        )
    if spec is None:
        return None
    return Launch(
        item_id=labels["item"],
        attempt=int(labels["attempt"]),
        queue=labels.get("queue", ""),
        spec=spec,
        run_id=labels["run"],
        stage=Stage.STARTED,
        agent_id=context.identity.agent_id,
        claimed_at=seen.started_at or context.clock(),
        since=seen.started_at or context.clock(),
        resource=resource,
        handle=handle,
        uses=uses_by(labels),
        assigned=assigned_by(labels),
    )


async def _is_over(backend: Backend, handle: Handle) -> bool:
    seen = (await backend.observe()).get(handle)
    return seen is None or seen.phase.is_terminal
