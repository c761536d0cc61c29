"""Metrics of the agent, in the Prometheus manner. `deploy/grafana/launchbay-agent.json` shows every one of them.

What is true now (launches, places, slots) is derived from what is held whenever it is asked for, and never counted, so
it cannot drift. What has happened is counted. No label holds an id, so a year brings no more series than a day.
"""

import math
from collections import Counter as Tally
from collections.abc import Iterator
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.registry import Collector

from agent.admission.inventory import Inventory
from agent.held import Launches
from agent.launch import Cause, Outcome, Stage

PollResult: TypeAlias = Literal["item", "empty", "error"]

PREFIX = "launchbay_agent"
START_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)
STAGE_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 43200, 172800)
LAG_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30)

disable_created_metrics()  # a second series for each counter, which tells only when it began


class Metrics:
    """The metrics of one agent, in a registry of its own."""

    def __init__(self, launches: Launches) -> None:
        self.registry = CollectorRegistry()
        self._held = _Held(launches)
        self.registry.register(self._held)
        ProcessCollector(registry=self.registry)
        self._polls = self._counter("polls", "Polls of a queue, by what they brought.", "queue", "result")
        self._ended = self._counter("launches_ended", "Launches that are over.", "queue", "outcome", "cause")
        self._retries = self._counter("retries", "Attempts that failed and are followed by another.", "cause")
        self._refusals = self._counter("refusals", "Launches refused by policy, by the rule.", "rule")
        self._backend_unavailable = self._counter(
            "backend_unavailable", "Calls that a backend could not answer.", "resource"
        )
        self._control_plane_retries = self._counter(
            "control_plane_retries", "Calls that the server could not answer and that are made again."
        )
        self._stage_seconds = self._histogram(
            "stage_seconds", "How long launches were in a stage they have left.", STAGE_BUCKETS, "stage"
        )
        self._start_seconds = self._histogram(
            "enqueued_to_started_seconds", "From the push of an item until a backend had it.", START_BUCKETS, "queue"
        )
        self._loop_lag = self._histogram("loop_lag_seconds", "How late the event loop was.", LAG_BUCKETS)

    def leads(self, leads: bool) -> None:
        """Say whether this agent works, or waits for another of its name to end."""
        self._held.leads = leads

    def polled(self, queue: str, result: PollResult) -> None:
        """A poll of a queue is over."""
        self._held.queues.add(queue)
        self._polls.labels(queue, result).inc()

    def stage_took(self, stage: Stage, seconds: float) -> None:
        """A launch has left a stage."""
        self._stage_seconds.labels(stage).observe(seconds)

    def enqueued_to_started(self, queue: str, seconds: float) -> None:
        """A backend has a launch whose item was pushed so long ago."""
        self._start_seconds.labels(queue).observe(seconds)

    def ended(self, queue: str, outcome: Outcome, cause: Cause) -> None:
        """A launch is over. Nobody is at fault for one that finished or was stopped, whatever the cause says."""
        blameless = outcome in {Outcome.FINISHED, Outcome.STOPPED}
        self._ended.labels(queue, outcome, "none" if blameless else cause).inc()

    def retried(self, cause: str) -> None:
        """An attempt has failed and another follows, from the retry budget of this name."""
        self._retries.labels(cause).inc()

    def refused(self, rule: str) -> None:
        """A launch was refused by this rule of the policy, as `policy.images`."""
        self._refusals.labels(rule).inc()

    def backend_unavailable(self, resource: str) -> None:
        """A backend could not be reached, or was overloaded."""
        self._backend_unavailable.labels(resource).inc()

    def control_plane_retried(self) -> None:
        """The server could not be reached, or was overloaded, and is asked again."""
        self._control_plane_retries.inc()

    def loop_was_late(self, seconds: float) -> None:
        """The event loop woke somebody up so much too late."""
        self._loop_lag.observe(seconds)

    def limits(self, max_jobs: int, inventory: Inventory) -> None:
        """Say what there is to give: places for jobs (-1 for no limit), and what of this machine."""
        self._held.places, self._held.inventory = (math.inf if max_jobs == -1 else max_jobs), inventory

    def exposition(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", meaning, labels, buckets=buckets, registry=self.registry)


class _Held(Collector):
    """What is held, and of how much."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches
        self.queues: set[str] = set()
        """Those polled so far: they are shown with zeros too, as a series that comes and goes is hard to alert on."""
        self.places: float = 0
        self.inventory = Inventory()
        self.leads = True

    def collect(self) -> Iterator[Metric]:
        """Derive the gauges."""
        tally = Tally((held.launch.queue, held.launch.stage) for held in self._launches)
        launches = GaugeMetricFamily(f"{PREFIX}_launches", "Launches held now.", labels=("queue", "stage"))
        for queue in sorted(self.queues.union(queue for queue, _ in tally)):
            for stage in Stage:
                launches.add_metric((queue, stage), tally[queue, stage])
        yield launches
        seen = Tally(
            (held.launch.resource, held.seen.phase, held.seen.reason)
            for held in self._launches
            if held.seen is not None and not held.seen.phase.is_terminal
        )
        on_platforms = GaugeMetricFamily(
            f"{PREFIX}_platform_launches",
            "Launches that a platform has, by what it says of them: why they wait, if they do.",
            labels=("resource", "phase", "reason"),
        )
        for (resource, phase, reason), count in sorted(seen.items()):
            on_platforms.add_metric((resource, phase, reason), count)
        yield on_platforms
        assigned = self._launches.assigned()
        for name, meaning, value in (
            ("leader", "1 if this agent works, 0 if it waits for another of its name to end.", int(self.leads)),
            ("places", "Jobs that may be held at once (max_jobs).", self.places),
            ("places_taken", "Jobs held that take a place.", self._launches.jobs()),
            ("schedulers", "Schedulers of sweeps held.", self._launches.schedulers()),
            ("gpus", "GPUs of this machine that may be assigned.", len(self.inventory.gpus)),
            ("gpus_assigned", "GPUs assigned.", sum(len(each.gpus) for each in assigned)),
            ("cpus", "CPU cores of this machine that may be assigned.", self.inventory.cpus),
            ("cpus_assigned", "CPU cores assigned.", sum(each.cpus for each in assigned)),
            ("memory_bytes", "Memory of this machine that may be assigned.", self.inventory.memory),
            ("memory_assigned_bytes", "Memory assigned.", sum(each.memory for each in assigned)),
        ):
            yield GaugeMetricFamily(f"{PREFIX}_{name}", meaning, value)
