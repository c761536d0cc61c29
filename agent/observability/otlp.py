"""Sends traces to an OpenTelemetry collector over OTLP/HTTP. Needs the extra `otel`.

Where to, with which headers and certificates: the standard variables OTEL_EXPORTER_OTLP_* say it. The SDK batches spans
and sends them in a thread of its own; if the collector is away, spans are dropped and launches do not notice.
"""

import asyncio
import hashlib

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.util.types import AttributeValue

from agent.launch import Launch, Outcome, Stage

CLOSE_SECONDS = 5.0
"""An agent that ends waits no longer for a collector."""


class OtlpTracer:
    """Records spans with the SDK."""

    def __init__(self, service: str, agent_name: str, version: str) -> None:
        self._exporter = OTLPSpanExporter()
        self._ids = _ChosenIds()
        facts = {"service.name": service, "service.instance.id": agent_name, "service.version": version}
        # One trace for each item is never too many, and a part of them would not tell what became of an item.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create(facts), shutdown_on_exit=False, id_generator=self._ids
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("launchbay.agent", version)

    def stage(self, launch: Launch, stage: Stage, began: float, ended: float) -> None:
        """Record that a launch was in a stage."""
        self._record(launch, stage, f"{launch.attempt}/{stage}", began, ended)

    def item(self, launch: Launch, enqueued: float, reported: float) -> None:
        """Record the whole way of an item, under which its stages come, and its wait in the queue."""
        if launch.claimed_at > enqueued:
            self._record(launch, "queued", "queued", enqueued, launch.claimed_at)
        self._record(launch, f"launch from {launch.queue}", "", enqueued, reported)

    async def close(self) -> None:
        """Send what has not been sent yet, if the collector takes it."""
        closing = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if not closing.done():
            self._exporter.shutdown()  # ends its retries
        await closing

    def _record(self, launch: Launch, name: str, what: str, began: float, ended: float) -> None:
        trace_id, root_id = _trace_id(launch.item_id), _span_id(launch.item_id, "")
        is_root = not what
        context = Context()
        if not is_root:
            root = SpanContext(trace_id, root_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
            context = set_span_in_context(NonRecordingSpan(root), context)
        self._ids.trace_id, self._ids.span_id = trace_id, _span_id(launch.item_id, what)
        span = self._tracer.start_span(
            name,
            context=context,
            attributes=_attributes(launch),
            start_time=_nanoseconds(began),
        )
        if is_root and launch.end is not None and launch.end.outcome not in {Outcome.FINISHED, Outcome.STOPPED}:
            span.set_status(Status(StatusCode.ERROR, launch.end.message))
        span.end(_nanoseconds(ended))


class _ChosenIds(IdGenerator):
    """Hands out the ids that were set for the next span. All spans are made by one thread."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


def _attributes(launch: Launch) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "launchbay.item": launch.item_id,
        "launchbay.attempt": launch.attempt,
        "launchbay.queue": launch.queue,
        "launchbay.run": launch.run_id,
    }
    if launch.resource:
        attributes["launchbay.resource"] = launch.resource
    if launch.end is not None:
        attributes["launchbay.outcome"] = launch.end.outcome
        attributes["launchbay.cause"] = launch.end.cause
    return attributes


def _trace_id(item_id: str) -> int:
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:16])


def _span_id(item_id: str, what: str) -> int:
    """Return the id of a part of an item's way; of the whole, if it is empty."""
    return int.from_bytes(hashlib.sha256(f"{item_id}/{what}".encode()).digest()[16:24])


def _nanoseconds(moment: float) -> int:
    return round(moment * 1e9)
