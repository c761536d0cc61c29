"""Tells the agent that holds a run's item that somebody wants it stopped."""

from server.context import Services
from server.storage import queue_items


async def notify_stop(services: Services, run_id: int) -> None:
    """Wake the agent's request for orders, if an agent launched this run."""
    agent_id = await services.database.read(queue_items.agent_of_run, run_id)
    if agent_id is not None:
        services.wakeups.notify(("agent", agent_id))
