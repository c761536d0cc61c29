"""Runs an agent: opens what it needs, works until it is told to end, and answers those who look after it."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.config.model import AgentConfig
from agent.config.reloading import reload_on_change
from agent.context import AgentContext
from agent.daemon import Daemon
from agent.errors import ControlPlaneRefused, ControlPlaneUnavailable
from agent.held import Launches
from agent.leadership import Election, ToldToEnd, candidate, leading
from agent.observability.metrics import Metrics
from agent.observability.service_manager import ServiceManager, service_manager
from agent.observability.status import agent_status
from agent.observability.status_app import serving, serving_at_the_start
from agent.opening import Server, opened, say_goodbye
from agent.signals import when_told_to_end
from agent.supervise import supervise

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Departure:
    """How an agent left."""

    left: int
    """How many launches it leaves behind, for the next one to adopt."""
    stopped: int
    """How many launches it stopped because it was told to end a second time."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Where another configuration comes from while the agent runs."""

    load: Callable[[], AgentConfig]
    path: Path | None
    """Looked at for changes."""


async def run_agent(config: AgentConfig, server: Server, *, version: str, reload: Reload | None = None) -> Departure:
    """Run an agent until SIGTERM, SIGINT or the server ends it; first wait for its turn, if it has to.

    Raises `LeaseLost` if another agent may be working now. What runs goes on.
    """
    try:
        async with AsyncExitStack() as stack:
            context = await _opened(stack, config, server, version)
            return await _work(context, version, reload)
    except ToldToEnd:
        return Departure(left=0, stopped=0)


async def _opened(stack: AsyncExitStack, config: AgentConfig, server: Server, version: str) -> AgentContext:
    """Wait for the agent's turn, then open what it needs. Probes are answered meanwhile: either may take long."""
    metrics = Metrics(Launches())
    metrics.leads(False)
    election: Election | None = None
    if config.leader_election:
        election = await stack.enter_async_context(candidate(config.leader_election))

    def why_not_ready() -> str | None:
        if election and not election.is_won:
            return election.error
        return "starting: it has not reached its server, or waits for something else that the log names"

    def doing() -> str:
        return f"waits for the lease {election.lease}, which {election.leader} has" if election else ""

    async with serving_at_the_start(metrics, why_not_ready, doing, config.listen):
        if election:
            await stack.enter_async_context(leading(election))
        return await stack.enter_async_context(opened(config, server, version=version))


async def _work(context: AgentContext, version: str, reload: Reload | None) -> Departure:
    daemon = Daemon(context)
    hangup = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
    async with _looked_after(context, daemon, version) as manager:
        daemon.on_drain = manager.stopping
        when_told_to_end(daemon.drain)
        reloading = asyncio.create_task(
            supervise("reload", lambda: _reloading(context, daemon, manager, reload, hangup))
        )
        try:
            log.info(
                "agent is ready",
                agent=context.identity.agent_name,
                entity=context.entity,
                queues=list(context.config.queues),
            )
            manager.ready()
            left = await daemon.run()
        finally:
            reloading.cancel()
            await asyncio.wait([reloading])
    # Of another server it is not known what it makes of launches whose agent has ended.
    if not left or context.facts.is_launchbay:
        try:
            await say_goodbye(context)
        except (ControlPlaneUnavailable, ControlPlaneRefused, TimeoutError) as error:
            log.warning("the server was not told that the agent ends", error=str(error))
    return Departure(left, daemon.stopped)


@asynccontextmanager
async def _looked_after(context: AgentContext, daemon: Daemon, version: str) -> AsyncGenerator[ServiceManager]:
    """Answer the service manager, probes and whoever asks for status or metrics."""
    health = daemon.health
    watching = asyncio.create_task(supervise("health", health.watch))
    try:
        async with (
            service_manager(context.process_environment) as manager,
            serving(
                context.metrics,
                health,
                lambda: agent_status(context, health, version),
                context.state_dir,
                context.config.listen,
            ),
        ):
            yield manager
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def _reloading(
    context: AgentContext, daemon: Daemon, manager: ServiceManager, reload: Reload | None, hangup: asyncio.Event
) -> None:
    def load() -> AgentConfig:
        return reload.load() if reload else context.config

    def apply(config: AgentConfig) -> None:
        with manager.reloading():
            daemon.reload(config)

    await reload_on_change(context.config, load, apply, hangup, reload.path if reload else None)
