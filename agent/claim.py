"""Claim: take an item off its queue and make it ours.

The order is what makes it safe. The item is leased, then written down with the run id that we will use, then
acknowledged. A crash before the writing leaves a lease, which goes back by itself. A crash after it leaves a note: the
next agent acknowledges again, and a server that knows us by our id says yes to a claim that is already ours.
"""

from collections.abc import Callable, Container

import structlog

from agent import operations
from agent.context import AgentContext
from agent.errors import ControlPlaneRefused
from agent.launch import Launch, Stage
from protocol import names
from protocol.launch_spec import is_scheduler_spec

log = structlog.get_logger(__name__)


async def claim(
    context: AgentContext, queue: str, wait: float, held: Container[str], *, may_schedule: Callable[[], bool]
) -> tuple[Launch | None, bool]:
    """Lease the queue's next item and write it down; and whether the server waited for one.

    An item that is among those held already is no new launch: an earlier agent had leased it, its lease ended while we
    were starting, and what we hold is going to acknowledge it. A sweep's scheduler for which there is no room
    (`may_schedule`) is left alone: its lease ends, and it comes again or goes to another agent.
    """
    item, waited = await operations.pop(
        context.server,
        entity=context.entity,
        queue=queue,
        agent_id=context.identity.agent_id,
        wait=wait,
        is_launchbay=context.facts.is_launchbay,
    )
    if item is None or item.item_id in held:
        return None, waited
    if is_scheduler_spec(item.spec) and not may_schedule():
        log.info("no room for another scheduler (max_schedulers)", item=item.item_id, attempt=1, queue=queue)
        return None, waited
    chosen, now = item.spec.get("run_id"), context.clock()
    launch = Launch(
        item_id=item.item_id,
        attempt=_attempt(item.spec.get("_resume_count")),
        queue=queue,
        spec=item.spec,
        agent_id=context.identity.agent_id,
        enqueued_at=min(item.enqueued_at, now),  # the server's clock may be ahead of this one
        claimed_at=now,
        since=now,
        run_id=chosen if isinstance(chosen, str) and chosen else names.run_id(context.random),
    )
    await context.journal.record(launch)
    return launch, waited


async def acknowledge(context: AgentContext, launch: Launch) -> bool:
    """Turn the lease into a claim. False: it is somebody else's by now, and we let go of it without a word."""

    async def call() -> bool:
        return await operations.acknowledge(
            context.server, launch, context.identity.agent_id, is_launchbay=context.facts.is_launchbay
        )

    try:
        ours = await context.server.persist(call, doing="acknowledging")
    except ControlPlaneRefused as error:
        log.warning("the server refuses the acknowledgement", reason=str(error))
        ours = False
    if ours:
        context.move(launch, Stage.PREPARING)
        # A crash before this is written is like one before the answer came: the next agent acknowledges again.
        context.journal.record_soon(launch)
    else:
        # Never fail it: whoever has it now would lose a healthy launch.
        log.info("the item belongs to somebody else now")
    return ours


def is_inherited(context: AgentContext, launch: Launch) -> bool:
    """Whether this agent claimed it under another identity: one that was told to end is somebody else afterwards."""
    return launch.agent_id not in {"", context.identity.agent_id} and context.facts.is_launchbay


async def inherit(context: AgentContext, launch: Launch) -> None:
    """Have the server give us an inherited launch: it knows whose a claim is by the identity. Returns when it knows."""
    identity, server, former = context.identity, context.server, launch.agent_id
    try:
        # Whoever has its state folder knows that it is not at work any more.
        await server.persist(lambda: operations.set_status(server, former, "KILLED"), doing="replacing an agent")
    except ControlPlaneRefused as error:
        log.info("the server does not know the former agent", agent=former, reason=str(error))
    await server.persist(
        lambda: operations.adopt(server, launch.item_id, launch.run_id, identity.agent_id), doing="adopting an item"
    )
    launch.agent_id = identity.agent_id
    await context.journal.record(launch)


def _attempt(resume_count: object) -> int:
    return resume_count + 1 if isinstance(resume_count, int) else 1
