"""Opens what an agent needs: its state folder, its server, its backends; and becomes somebody at the server."""

import asyncio
import hashlib
import os
import socket
import sqlite3
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom

from agent import operations
from agent.admission.inventory import gpus_in_use, read_inventory
from agent.admission.slots import SlotTable
from agent.building.credentials import Tokens
from agent.caches.artifacts import ArtifactCache
from agent.caches.bounded import BoundedCache
from agent.caches.environments import Environments, installer_environment
from agent.caches.image_environments import ImageEnvironments
from agent.caches.manifest import Limits
from agent.config.forms import parse_limit
from agent.config.model import AgentConfig
from agent.config.stock_blocks import backend_block
from agent.context import AgentContext
from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneUnavailable, QueueNotFound, StateFolderUnusable
from agent.held import Launches
from agent.journal import Identity, Journal
from agent.observability.metrics import Metrics
from agent.observability.tracing import open_tracer
from agent.prepare import job_base_environment
from agent.redaction import SECRETS
from agent.sources.repositories import Repositories
from backends import registry
from backends.base import Backend

SCHEDULER_RESOURCE = "local-process"
STATE_ROOT = Path.home() / ".local" / "state" / "launchbay"


@dataclass(frozen=True, slots=True)
class Server:
    """Where the agent's server is, and the key to it."""

    base_url: str
    api_key: str = field(repr=False)


@asynccontextmanager
async def opened(config: AgentConfig, server: Server, *, version: str) -> AsyncGenerator[AgentContext]:
    """Give an agent's surroundings while the block runs. Waits for a server that is away.

    Raises `QueueNotFound`, `StateFolderInUse`, `StateFolderUnusable`, `ConfigError`, or what the server refuses.
    """
    random, environment = SystemRandom(), dict(os.environ)
    SECRETS.keep(server.api_key)
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(ControlPlane(server.base_url, server.api_key, random=random))
        facts = await control.persist(lambda: operations.server_facts(control), doing="looking for the server")
        entity = config.entity or facts.entity
        await control.persist(lambda: _check_queues(control, entity, config), doing="looking for the queues")
        resources: Mapping[str, str] = {}
        if facts.is_launchbay:
            resources = await control.persist(
                lambda: operations.queue_resources(control, entity), doing="looking for the queues"
            )
        state_dir = (config.state_dir or default_state_dir(server.base_url, entity, config.queues)).absolute()
        try:
            journal = await Journal.open(state_dir)
        except (OSError, sqlite3.Error) as error:
            raise StateFolderUnusable(state_dir, error) from error
        stack.push_async_callback(journal.close)
        owner = config.name or f"{socket.gethostname()}:{state_dir}"
        backends = _open_backends(config, state_dir, owner)
        for backend in backends.values():
            stack.push_async_callback(backend.close)
        inventory = await read_inventory(config.slots, environment)
        # Not before: whom the server knows, people wait for.
        identity = await control.persist(
            lambda: _identify(control, journal, config, entity, version), doing="registering the agent"
        )
        launches = Launches()
        caches, limits = config.caches, config.limits
        code = BoundedCache(state_dir / "artifacts", parse_limit(caches.code), launches.in_use)
        installed = BoundedCache(state_dir / "environments", parse_limit(caches.environments), launches.in_use)
        repositories = Repositories(code, state_dir / "git", environment)
        await asyncio.to_thread(repositories.remove_leftovers)
        for_jobs = job_base_environment(environment, config.job_environment)
        metrics = Metrics(launches)
        metrics.limits(config.max_jobs, inventory)
        control.on_retry = metrics.control_plane_retried
        tracer = await open_tracer(environment, identity.agent_name, version)
        stack.push_async_callback(tracer.close)
        yield AgentContext(
            config=config,
            entity=entity,
            server=control,
            facts=facts,
            identity=identity,
            journal=journal,
            state_dir=state_dir,
            owner=owner,
            queue_resources=resources,
            launches=launches,
            slots=SlotTable(inventory, launches.assigned, gpus_in_use if config.slots.skip_busy_gpus else None),
            backends=backends,
            artifacts=ArtifactCache(code, control, Limits(parse_limit(limits.file), parse_limit(limits.total))),
            repositories=repositories,
            environments=Environments(installed, installer_environment(environment, for_jobs)),
            image_environments=ImageEnvironments(installed, state_dir / "uv", environment, random),
            work_dir=state_dir / "work",
            process_environment=environment,
            metrics=metrics,
            tracer=tracer,
            tokens=Tokens(config.environment),
            clock=time.time,
            random=random,
            caches=(code, installed),
        )


def default_state_dir(base_url: str, entity: str, queues: Sequence[str]) -> Path:
    """Return the state folder of the agent that serves these queues of this server on this machine."""
    what = "\n".join((base_url, entity, *sorted(queues)))
    return STATE_ROOT / f"agent-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


async def _check_queues(control: ControlPlane, entity: str, config: AgentConfig) -> None:
    """Raise `QueueNotFound` unless the entity has all queues that the agent is to serve."""
    known = await operations.queue_ids(control, entity)
    missing = [name for name in config.queues if name not in known]
    if missing:
        resource = next(iter(config.resources), SCHEDULER_RESOURCE)
        there = ", ".join(sorted(known)) or "none"
        raise QueueNotFound(
            f"Entity {entity!r} has no queue {', '.join(map(repr, missing))}; there are: {there}. "
            f"Make it with: launchbay queue create {missing[0]} -e {entity} -r {resource}"
        )


async def say_goodbye(context: AgentContext) -> None:
    """Tell the server that the agent ends: what it leaves behind may be adopted by the next one, and at once."""
    await operations.set_status(context.server, context.identity.agent_id, "KILLED")


async def _identify(
    control: ControlPlane, journal: Journal, config: AgentConfig, entity: str, version: str
) -> Identity:
    """Be who we were before, if the server still knows us; otherwise register."""
    known = await journal.identity()
    if known and known.base_url == control.base_url and known.entity == entity:
        record = await operations.agent_record(control, known.agent_id)
        if record and not record["stopPolling"] and record["agentStatus"] != "KILLED":
            return known
    queues = await operations.queue_ids(control, entity)
    agent_id = await operations.register(
        control,
        entity=entity,
        queues=[queues[name] for name in config.queues],
        hostname=socket.gethostname(),
        config=config.model_dump(mode="json", include={"entity", "queues", "max_jobs", "max_schedulers", "resources"}),
        version=version,
    )
    record = await operations.agent_record(control, agent_id)
    if record is None:
        raise ControlPlaneUnavailable("The server does not know the agent that it has just registered.")
    identity = Identity(control.base_url, entity, agent_id, record["name"])
    await journal.remember_identity(identity)
    return identity


def _open_backends(config: AgentConfig, state_dir: Path, owner: str) -> dict[str, Backend]:
    # Schedulers of sweeps run on this machine, whatever the agent serves otherwise.
    resources = {*config.resources, *([SCHEDULER_RESOURCE] if config.max_schedulers else [])}
    return {
        resource: registry.load(resource)(state_dir / resource, owner, backend_block(config, resource))
        for resource in sorted(resources)
    }
