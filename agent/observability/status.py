"""What the agent says of itself, as one document. It holds no secret and no launch spec."""

from datetime import UTC, datetime

from agent.context import AgentContext
from agent.held import Held
from agent.observability.health import Health
from protocol.json_types import JsonObject


def agent_status(context: AgentContext, health: Health, version: str) -> JsonObject:
    """Return the document, whose moments are ISO times."""
    config, launches, inventory, now = context.config, context.launches, context.slots.inventory, context.clock()
    return {
        "name": context.identity.agent_name,
        "version": version,
        "entity": context.entity,
        "started_at": _iso(now - health.uptime),
        "draining": health.draining,
        "problem": health.why_not_alive() or health.why_not_ready(),
        "limits": {
            "max_jobs": config.max_jobs,
            "max_schedulers": config.max_schedulers,
            "queue_limits": config.queue_limits,
            "gpus": [gpu.id for gpu in inventory.gpus],
            "cpus": inventory.cpus,
            "memory_bytes": inventory.memory,
        },
        "jobs": launches.jobs(),
        "schedulers": launches.schedulers(),
        "queues": [
            {
                "name": queue,
                "jobs": launches.jobs(queue),
                "polling_since": _ago(now, health.seconds_polling(queue)),
                "polled_at": _ago(now, health.seconds_since_poll(queue)),
                "full": health.why_full(queue),
            }
            for queue in config.queues
        ],
        "launches": [_launch_status(held) for held in launches],
    }


def _launch_status(held: Held) -> JsonObject:
    launch = held.launch
    return {
        "item": launch.item_id,
        "queue": launch.queue,
        "attempt": launch.attempt,
        "run": launch.run_id,
        "resource": launch.resource or None,
        "stage": launch.stage,
        "since": _iso(launch.since),
        "claimed_at": _iso(launch.claimed_at),
        "waits_for": held.waits_for or None,
        "stop": launch.stop,
        "gpus": list(launch.assigned.gpus) if launch.assigned else [],
        "retries": dict(launch.tries),
    }


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _ago(now: float, seconds: float | None) -> str | None:
    return None if seconds is None else _iso(now - seconds)
