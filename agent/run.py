"""Starts an agent: opens its state folder, finds its server, becomes somebody there, and works until told to stop."""

import asyncio
import hashlib
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

import structlog

from agent import operations
from agent.artifact_cache import ArtifactCache
from agent.config import AgentConfig
from agent.context import AgentContext
from agent.control_plane import ControlPlane
from agent.daemon import Daemon
from agent.environments import Environments
from agent.errors import ControlPlaneUnavailable, QueueNotFound
from agent.journal import Identity, Journal
from agent.operations import ServerFacts
from backends import registry
from backends.base import Backend

SCHEDULER_RESOURCE = "local-process"
STATE_ROOT = Path.home() / ".local" / "state" / "launchbay"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """Where the agent's server is, and the key to it."""

    base_url: str
    api_key: str


async def run_agent(config: AgentConfig, server: Server, *, version: str) -> int:
    """Run an agent until SIGTERM, SIGINT or the server ends it; returns how many launches it leaves behind."""
    random = SystemRandom()
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(ControlPlane(server.base_url, server.api_key, random=random))
        facts = await control.persist(lambda: operations.server_facts(control), doing="looking for the server")
        entity = config.entity or facts.entity
        await control.persist(lambda: _check_queues(control, entity, config.queues), doing="looking for the queues")
        state_dir = config.state_dir or default_state_dir(server.base_url, entity, config.queues)
        journal = await Journal.open(state_dir)
        stack.push_async_callback(journal.close)
        identity = await control.persist(
            lambda: _identify(control, journal, config, entity, version), doing="registering the agent"
        )
        backends = _open_backends(config, state_dir, identity.agent_name)
        for backend in backends.values():
            stack.push_async_callback(backend.close)
        context = _context(config, entity, control, facts, identity, journal, backends, state_dir, random)
        daemon = Daemon(context)
        _stop_on_signals(daemon)
        log.info("agent is ready", agent=identity.agent_name, entity=entity, queues=list(config.queues))
        left = await daemon.run()
        if not left:
            await _say_goodbye(context)
        return left


def default_state_dir(base_url: str, entity: str, queues: Sequence[str]) -> Path:
    """Return the state folder of the agent that serves these queues of this server on this machine."""
    what = "\n".join((base_url, entity, *sorted(queues)))
    return STATE_ROOT / f"agent-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def _context(
    config: AgentConfig,
    entity: str,
    control: ControlPlane,
    facts: ServerFacts,
    identity: Identity,
    journal: Journal,
    backends: Mapping[str, Backend],
    state_dir: Path,
    random: Random,
) -> AgentContext:
    environment = dict(os.environ)
    return AgentContext(
        config=config,
        entity=entity,
        server=control,
        facts=facts,
        identity=identity,
        journal=journal,
        backends=backends,
        artifacts=ArtifactCache(state_dir / "artifacts", control),
        environments=Environments(state_dir / "environments", environment),
        work_dir=state_dir / "work",
        process_environment=environment,
        clock=time.time,
        random=random,
    )


async def _check_queues(control: ControlPlane, entity: str, wanted: Sequence[str]) -> None:
    known = await operations.queue_ids(control, entity)
    missing = [name for name in wanted if name not in known]
    if missing:
        there = ", ".join(sorted(known)) or "none"
        raise QueueNotFound(
            f"Entity {entity!r} has no queue {', '.join(map(repr, missing))}; there are: {there}. "
            f"Make it with: launchbay queue create {missing[0]} -e {entity} -r local-process"
        )


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


def _open_backends(config: AgentConfig, state_dir: Path, agent_name: str) -> dict[str, Backend]:
    # Schedulers of sweeps run on this machine, whatever the agent serves otherwise.
    resources = {*config.resources, *([SCHEDULER_RESOURCE] if config.max_schedulers else [])}
    return {resource: registry.load(resource)(state_dir / resource, agent_name, {}) for resource in sorted(resources)}


def _stop_on_signals(daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)


async def _say_goodbye(context: AgentContext) -> None:
    try:
        await operations.set_status(context.server, context.identity.agent_id, "KILLED")
    except ControlPlaneUnavailable as error:
        log.warning("the server was not told that the agent ends", error=str(error))
