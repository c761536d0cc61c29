"""Traces: one for each item, with a span for each stage, from the push of the item to the report of its end.

Spans are recorded once a stage is over, with the times at which it began and ended. Their ids follow from item, attempt
and stage, so a restarted agent goes on in the same trace, and what is told twice is one span.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from agent.launch import Launch, Stage

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Traces are sent if one of these variables of the agent says where to."""

log = structlog.get_logger(__name__)


class Tracer(Protocol):
    """Where spans go. Nothing here waits or fails, except `close`, which may wait for a few seconds."""

    def stage(self, launch: Launch, stage: Stage, began: float, ended: float) -> None:
        """Record that a launch was in a stage, as the attempt it is now. Times are in seconds since the epoch."""
        ...

    def item(self, launch: Launch, enqueued: float, reported: float) -> None:
        """Record the whole way of an item, from its push until the server knows its end, and its wait for the claim."""
        ...

    async def close(self) -> None:
        """Send what has not been sent yet."""
        ...


class NoTracer:
    """Records nothing."""

    def stage(self, launch: Launch, stage: Stage, began: float, ended: float) -> None:
        """Do nothing."""

    def item(self, launch: Launch, enqueued: float, reported: float) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


async def open_tracer(environment: Mapping[str, str], agent_name: str, version: str) -> Tracer:
    """Return the tracer that the agent's variables ask for."""
    variable = next((name for name in ENDPOINTS if environment.get(name)), None)
    if variable is None:
        return NoTracer()
    service = environment.get("OTEL_SERVICE_NAME") or "launchbay-agent"
    try:
        return await asyncio.to_thread(_open_otlp, service, agent_name, version)
    except ModuleNotFoundError as error:
        install = "pip install 'launchbay[otel]'"
        log.warning("no traces: OpenTelemetry is not installed", asked_by=variable, missing=error.name, install=install)
        return NoTracer()


def _open_otlp(service: str, agent_name: str, version: str) -> Tracer:
    from agent.observability.otlp import OtlpTracer  # an extra, and five MiB of memory

    return OtlpTracer(service, agent_name, version)
