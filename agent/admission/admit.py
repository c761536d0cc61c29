"""Admit: wait until this machine has what a launch asks for, and give it that. Only for launches that run on it."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from agent.admission.inventory import Inventory
from agent.admission.slots import environment_of, parse_request
from agent.context import AgentContext
from agent.launch import Assigned, Launch, Tell
from agent.prepare import GPU_VARIABLES, backend_for
from agent.resolve import Resolved
from backends.base import StartRequest
from protocol.container_options import parse_size, read_options
from protocol.json_types import JsonObject


async def admit(
    context: AgentContext, launch: Launch, resolved: Resolved, request: StartRequest, tell: Tell
) -> StartRequest:
    """Return the request with the launch's own GPUs, CPUs and memory in it; raises `LaunchFailed` if it asks too much.

    What an earlier agent gave it stays its own: the job may be running with it.
    """
    capabilities = backend_for(context, resolved.spec).capabilities
    if launch.is_scheduler or not capabilities.runs_locally:
        return request
    inventory = context.slots.inventory
    args = asked_by_container(request.resource_args, inventory) if capabilities.needs_image else request.resource_args
    asked = parse_request(args, inventory)

    def give(assigned: Assigned) -> None:
        launch.assigned = assigned

    if launch.assigned is None:
        taking = asyncio.create_task(context.slots.take(asked, give))
        try:
            await asyncio.sleep(0)
            if not taking.done():
                await tell(context.slots.why_waiting(asked))
            await taking
        finally:
            taking.cancel()
            await asyncio.wait([taking])
    assert launch.assigned is not None
    return replace(
        request,
        environment=_with_slots(request.environment, launch.assigned, context.slots.inventory),
        labels={**request.labels, **labels_of(launch.assigned)},
    )


def asked_by_container(resource_args: JsonObject, inventory: Inventory) -> JsonObject:
    """Return what a container's options ask of this machine, by the slots' names and units. Raises `SpecError`.

    Where this agent gives no GPUs, the engine does.
    """
    options = read_options(resource_args)
    asked = {key: options[key] for key in ("cpus", "memory") if key in options}
    if isinstance(memory := asked.get("memory"), str):
        with suppress(ValueError):  # what is no size is named where the others are
            asked["memory"] = parse_size(memory.strip())
    if inventory.manages_gpus and "gpus" in options:
        asked["gpus"] = len(inventory.gpus) if options["gpus"] == "all" else options["gpus"]
    return asked


def _with_slots(environment: Mapping[str, str], assigned: Assigned, inventory: Inventory) -> dict[str, str]:
    # What the agent itself may see would contradict what the job was given.
    inherited = GPU_VARIABLES if inventory.manages_gpus else frozenset[str]()
    kept = {name: value for name, value in environment.items() if name not in inherited}
    return {**kept, **environment_of(assigned, inventory)}


def labels_of(assigned: Assigned) -> dict[str, str]:
    """Return the labels from which `assigned_by` knows what a launch was given."""
    return {"gpus": ",".join(assigned.gpus), "cpus": str(assigned.cpus), "memory": str(assigned.memory)}


def assigned_by(labels: Mapping[str, str]) -> Assigned | None:
    """Return what a launch with these labels was given; None if they do not tell."""
    if "gpus" not in labels:
        return None
    return Assigned(
        tuple(gpu for gpu in labels["gpus"].split(",") if gpu), float(labels["cpus"]), int(labels["memory"])
    )
