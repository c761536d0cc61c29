"""What is said of launches that do not get to run is asked with few questions, however many wait. In virtual time."""

import asyncio
from itertools import pairwise
from random import Random
from typing import Any, cast

import pytest

from backends.base import Handle, Observation, Phase
from backends.kubernetes.addresses import Address
from backends.kubernetes.api import Kind, KubeApi, KubeObject, KubeUnavailable, Listing, Trim
from backends.kubernetes.cluster import Namespace
from backends.kubernetes.launches import Tracked
from backends.kubernetes.waiting import FIRST_SECONDS, LAST_SECONDS, REST, Waits

pytestmark = pytest.mark.looptime

STARTING = Observation(Phase.STARTING)


class Events:
    """What of `KubeApi` is used: the events of a namespace, which take their time to be listed."""

    def __init__(self) -> None:
        self.said: list[KubeObject] = []
        self.takes = 0.0
        self.asked: list[float] = []
        self.is_away = False

    async def list(
        self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", trim: Trim | None = None
    ) -> Listing:
        assert (kind.plural, fields) == ("events", "type=Warning")
        self.asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes)
        if self.is_away:
            raise KubeUnavailable("away")
        return Listing([trim(each) if trim else each for each in self.said], "1")

    def say(self, kind: str, name: str, message: str) -> None:
        about = {"kind": kind, "name": name}
        self.said.append({"metadata": {"name": f"{name}.1"}, "involvedObject": about, "message": message})


class Waiting:
    """Launches of a namespace that wait, looked after every second."""

    def __init__(self) -> None:
        self.events = Events()
        self.namespace = Namespace(cast("KubeApi", self.events), "", "ns", "us", lambda _: None, Random(1))
        self.phases: dict[Handle, Observation] = {}
        self.changed: list[str] = []
        self.waits = Waits(lambda tracked: self.changed.append(tracked.address.name))

    def add(self, name: str) -> Tracked:
        address = Address("", "ns", "batch/v1", "Job", name)
        labels = {"launchbay.dev/launch": name}
        made: dict[str, Any] = {"metadata": {"name": name, "uid": name, "labels": labels}}
        pod = {"metadata": {"name": f"{name}-abcde", "labels": labels}}
        self.namespace.launches.put_pod(f"{name}-abcde", None, pod)
        tracked = self.namespace.launches.put(address, made)
        assert tracked
        self.phases[address.handle] = STARTING
        return tracked

    async def run(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            await asyncio.sleep(1)
            await self.waits.ask(self.namespace, self.phases.get)


def messages(tracked: Tracked) -> list[str]:
    return [event["message"] for event in tracked.events]


async def test_a_launch_is_told_what_is_said_of_it_of_its_pods_and_of_its_workload() -> None:
    waiting = Waiting()
    one, other = waiting.add("launch-1"), waiting.add("launch-10")
    for kind, name in (("Job", "launch-1"), ("Pod", "launch-1-abcde"), ("Workload", "job-launch-1-4f3c1")):
        waiting.events.say(kind, name, f"{kind} of one")
    waiting.events.say("Pod", "launch-10-abcde", "Pod of the other")
    waiting.events.say("Pod", "launch-1", "no pod of ours")
    waiting.events.say("Service", "launch-1", "no launch")
    await waiting.run(FIRST_SECONDS + 1)
    assert sorted(messages(one)) == ["Job of one", "Pod of one", "Workload of one"]
    assert messages(other) == ["Pod of the other"]
    assert sorted(waiting.changed) == ["launch-1", "launch-10"]


async def test_nobody_is_asked_about_what_runs() -> None:
    waiting = Waiting()
    tracked = waiting.add("launch-1")
    waiting.phases[tracked.address.handle] = Observation(Phase.RUNNING)
    await waiting.run(60)
    assert waiting.events.asked == []


async def test_thousands_that_wait_for_long_cost_a_question_now_and_then() -> None:
    waiting = Waiting()
    for number in range(1000):
        waiting.add(f"launch-{number}")
        if number % 100 == 0:
            await waiting.run(1)  # they did not begin at once
    await waiting.run(1000)
    before = len(waiting.events.asked)
    await waiting.run(3 * LAST_SECONDS)
    assert 2 <= len(waiting.events.asked) - before <= 4


async def test_the_longer_an_answer_takes_the_rarer_are_the_questions() -> None:
    waiting = Waiting()
    waiting.events.takes = 2.0
    for number in range(100):
        waiting.add(f"launch-{number}")  # there is always one whose first time has come
        await waiting.run(5)
    asked = waiting.events.asked
    assert all(then - at >= (1 + REST) * waiting.events.takes for at, then in pairwise(asked))
    assert len(asked) >= 500 / ((1 + REST) * waiting.events.takes + 5) - 1


async def test_a_cluster_that_does_not_answer_is_asked_again() -> None:
    waiting = Waiting()
    tracked = waiting.add("launch-1")
    waiting.events.say("Pod", "launch-1-abcde", "no room")
    waiting.events.is_away = True
    with pytest.raises(KubeUnavailable):
        await waiting.run(FIRST_SECONDS + 1)
    waiting.events.is_away = False
    await waiting.run(60)
    assert messages(tracked) == ["no room"]
