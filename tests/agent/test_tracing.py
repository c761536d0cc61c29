"""One trace for each item, from push to report, also across agents; and none of it in the way of a launch."""

import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from structlog.testing import capture_logs

from agent.launch import Cause, End, Launch, Outcome, Stage
from agent.observability.tracing import NoTracer, Tracer, open_tracer

ERROR = 2
"""The status code of a span that failed, on the wire."""


@dataclass
class Collector:
    """Takes traces, as an OpenTelemetry collector does."""

    url: str = ""
    spans: list[Any] = field(default_factory=list[Any])
    resources: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    async def take(self, request: web.Request) -> web.Response:
        """Take a batch."""
        batch = ExportTraceServiceRequest.FromString(await request.read())
        for part in batch.resource_spans:
            self.resources.append({each.key: each.value.string_value for each in part.resource.attributes})
            self.spans += [span for scope in part.scope_spans for span in scope.spans]
        return web.Response()

    def named(self, name: str) -> Any:
        """Return the one span of that name."""
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector that the agent's variables name."""
    made = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    yield made
    await runner.cleanup()


def launch(**changes: Any) -> Launch:
    """Return a launch that was claimed at 100."""
    return Launch("item-1", 1, "q", {"project": "p"}, "run-1", claimed_at=100, **changes)


async def opened(collector: Collector) -> Tracer:
    """Return a tracer, as a starting agent opens it."""
    return await open_tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, "agent-1", "launchbay@1")


async def test_an_items_way_is_one_trace(collector: Collector) -> None:
    tracer, tracked = await opened(collector), launch(resource="local-process")
    tracer.stage(tracked, Stage.CLAIMED, 100, 100.5)
    tracer.stage(tracked, Stage.PREPARING, 100.5, 102)
    tracked.end = End(Outcome.FINISHED, "", 0)
    tracer.item(tracked, 90, 103)
    await tracer.close()
    assert {span.name for span in collector.spans} == {"queued", "claimed", "preparing", "launch from q"}
    root = collector.named("launch from q")
    assert root.parent_span_id == b""
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    assert {span.parent_span_id for span in collector.spans if span is not root} == {root.span_id}
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (90 * 10**9, 103 * 10**9)
    queued, preparing = collector.named("queued"), collector.named("preparing")
    assert (queued.start_time_unix_nano, queued.end_time_unix_nano) == (90 * 10**9, 100 * 10**9)
    assert (preparing.start_time_unix_nano, preparing.end_time_unix_nano) == (100_500_000_000, 102 * 10**9)
    told = {each.key: each.value.string_value or each.value.int_value for each in root.attributes}
    assert told == {
        "launchbay.item": "item-1",
        "launchbay.attempt": 1,
        "launchbay.queue": "q",
        "launchbay.run": "run-1",
        "launchbay.resource": "local-process",
        "launchbay.outcome": "finished",
        "launchbay.cause": "workload",
    }
    assert root.status.code == 0
    assert collector.resources[0]["service.name"] == "launchbay-agent"
    assert collector.resources[0]["service.instance.id"] == "agent-1"


async def test_a_restarted_agent_goes_on_in_the_same_trace(collector: Collector) -> None:
    before = await opened(collector)
    before.stage(launch(), Stage.CLAIMED, 100, 101)
    await before.close()
    after = await opened(collector)
    after.stage(launch(), Stage.CLAIMED, 100, 101)
    after.item(launch(), 100, 110)
    await after.close()
    first, again, root = collector.spans
    assert (first.trace_id, first.span_id) == (again.trace_id, again.span_id), "told twice, it is one span"
    assert (root.trace_id, root.span_id) == (first.trace_id, first.parent_span_id)


async def test_attempts_and_items_are_told_apart(collector: Collector) -> None:
    tracer, tracked = await opened(collector), launch()
    tracer.stage(tracked, Stage.STARTED, 100, 101)
    tracked.attempt = 2
    tracer.stage(tracked, Stage.STARTED, 102, 103)
    tracer.stage(Launch("item-2", 1, "q", {}, "run-2"), Stage.STARTED, 100, 101)
    await tracer.close()
    assert len({span.span_id for span in collector.spans}) == 3
    assert len({span.trace_id for span in collector.spans}) == 2


async def test_a_failure_is_marked_and_a_stop_is_none(collector: Collector) -> None:
    tracer = await opened(collector)
    for item_id, outcome in (("item-1", Outcome.LOST), ("item-2", Outcome.STOPPED)):
        ended = Launch(item_id, 1, "q", {}, "run", end=End(outcome, "Why.", cause=Cause.NODE_LOST))
        tracer.item(ended, 100, 101)
    await tracer.close()
    lost, stopped = collector.spans
    assert (lost.status.code, lost.status.message) == (ERROR, "Why.")
    assert stopped.status.code == 0


async def test_nothing_of_a_spec_is_in_a_trace(collector: Collector) -> None:
    tracer = await opened(collector)
    tracer.item(Launch("item-1", 1, "q", {"_wandb_api_key": "a-secret"}, "run-1"), 1, 2)
    await tracer.close()
    assert "a-secret" not in str(collector.spans)


async def test_a_collector_that_is_away_keeps_no_agent_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.observability.otlp.CLOSE_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = await open_tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "agent-1", "1")
    tracer.stage(launch(), Stage.CLAIMED, 1, 2)
    began = time.monotonic()
    await tracer.close()
    assert time.monotonic() - began < 60


async def test_nobody_is_traced_who_did_not_ask() -> None:
    tracer = await open_tracer({}, "agent-1", "1")
    assert isinstance(tracer, NoTracer)
    tracer.stage(launch(), Stage.CLAIMED, 1, 2)
    tracer.item(launch(), 1, 2)
    await tracer.close()


async def test_without_the_extra_the_agent_works_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "agent.observability.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with capture_logs() as logs:
        tracer = await open_tracer({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://user:secret@host"}, "agent-1", "1")
    assert isinstance(tracer, NoTracer)
    (line,) = logs
    assert line["install"] == "pip install 'launchbay[otel]'"
    assert line["asked_by"] == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    assert "secret" not in str(line)
