"""Admit: wait until this machine has what a launch asks for, and give it that. Only for launches that run on it."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from agent.admission.inventory import Inventory
from agent.admission.slots import Request, environment_of, parse_container_request, parse_request
from agent.context import AgentContext
from agent.images import without_builder
from agent.launch import Assigned, Launch, Tell
from agent.prepare import GPU_VARIABLES, backend_for, is_container
from agent.resolve import Resolved
from backends.base import StartRequest


def asked_of_machine(context: AgentContext, launch: Launch, resolved: Resolved) -> Request | None:
    """Return what a launch asks of this machine, None if it runs elsewhere; `LaunchFailed` if it asks too much."""
    if launch.is_scheduler or not backend_for(context, resolved.spec).capabilities.runs_locally:
        return None
    parse = parse_container_request if is_container(context, resolved.spec) else parse_request
    return parse(without_builder(resolved.resource_args), context.slots.inventory)


async def admit(
    context: AgentContext, launch: Launch, asked: Request, resolved: Resolved, request: StartRequest, tell: Tell
) -> StartRequest:
    """Wait for what a launch asks of this machine; return the request with its own GPUs, CPUs and memory in it.

    What an earlier agent gave it stays its own: the job may be running with it.
    """
    inventory, in_container = context.slots.inventory, is_container(context, resolved.spec)

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
        environment=_with_slots(request.environment, launch.assigned, inventory, in_container=in_container),
        gpus=launch.assigned.gpus,
        cpus=launch.assigned.cpus,
        memory=launch.assigned.memory,
        labels={**request.labels, **labels_of(launch.assigned)},
    )


def _with_slots(
    environment: Mapping[str, str], assigned: Assigned, inventory: Inventory, *, in_container: bool
) -> dict[str, str]:
    # What the agent itself may see would contradict what the job was given.
    inherited = GPU_VARIABLES if inventory.manages_gpus else frozenset[str]()
    kept = {name: value for name, value in environment.items() if name not in inherited}
    return {**kept, **environment_of(assigned, inventory, in_container=in_container)}


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
