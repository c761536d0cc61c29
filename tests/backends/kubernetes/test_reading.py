"""What clusters say of launches is read: tables of scenes, and what holds whatever they say and in whatever order."""

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Observation, Phase, Step
from backends.kubernetes.reading import Reading, is_about, launch_labels, read, read_gone
from backends.kubernetes.reading.kinds import reader_of
from backends.kubernetes.reading.operators import any_kind
from backends.kubernetes.sources import sources_of
from backends.kubernetes.trimming import trimmed, trimmed_pod
from protocol.kubernetes_kinds import KINDS

OBJECTS = Path(__file__).parent / "objects"
TIMES = {"started_at", "since", "ended_at", "hopeless_at", "again_at"}


def at(clock: str) -> float:
    """Return a time of the scenes' day."""
    return datetime.fromisoformat(f"2026-11-21T{clock}+00:00").timestamp()


SCENES: dict[str, Mapping[str, Any]] = {
    f"{path.stem}: {scene['it']}": scene
    for path in sorted(OBJECTS.glob("*.yaml"))
    for scene in yaml.safe_load(path.read_text())
}
EACH = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())


def read_scene(scene: Mapping[str, Any]) -> Reading:
    return read(
        scene["object"],
        scene.get("pods", []),
        scene.get("events", []),
        now=at(scene.get("now", "10:01:00")),
        gone=scene.get("gone", []),
    )


@EACH
def test_a_scene(scene: Mapping[str, Any]) -> None:
    reading = read_scene(scene)
    for field, expected in scene["says"].items():
        found: Any = reading.again_at if field == "again_at" else getattr(reading.observation, field)
        if field in TIMES and found is not None:
            found = datetime.fromtimestamp(found, UTC).strftime("%H:%M:%S")
        if isinstance(expected, str) and len(expected) > 1 and expected[0] == expected[-1] == "/":
            assert re.search(expected[1:-1], str(found)), f"{field}: {found}"
        else:
            assert found == (tuple(expected) if field == "details" else expected), field


@EACH
def test_what_is_kept_of_objects_is_what_is_read(scene: Mapping[str, Any]) -> None:
    pods, gone = ([trimmed_pod(deepcopy(pod)) for pod in scene.get(key, [])] for key in ("pods", "gone"))
    kept = {**scene, "pods": pods, "gone": gone, "object": trimmed(deepcopy(scene["object"]))}
    assert read_scene(kept) == read_scene(scene)
    assert sources_of(pods, gone) == sources_of(scene.get("pods", []), scene.get("gone", []))


@EACH
def test_order_does_not_matter(scene: Mapping[str, Any]) -> None:
    def turned(key: str) -> list[Any]:
        return list(reversed(scene.get(key, [])))

    again = {**scene, "pods": turned("pods"), "gone": turned("gone"), "events": turned("events")}
    assert read_scene(again) == read_scene(scene)


def test_every_kind_of_end_is_among_the_scenes() -> None:
    assert {read_scene(scene).observation.phase for scene in SCENES.values()} == set(Phase)
    assert {read_scene(scene).observation.step for scene in SCENES.values()} == set(Step)


# --- the race of the two watches -------------------------------------------------------------------------------------


def _steps(reason: str, gone: bool) -> tuple[list[Any], list[Any]]:
    """Return the forms that a Job and its pod take, one after the other, as the pod is taken away."""
    backoff = next(scene for scene in SCENES.values() if scene["it"].startswith("a pod that was preempted, though"))
    job, pod = backoff["object"], backoff["gone"][0]
    running = {
        **pod,
        "metadata": {**pod["metadata"], "deletionTimestamp": None},
        "status": {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]},
    }
    condition = {**pod["status"]["conditions"][0], "reason": reason}
    deleted = {**running, "metadata": pod["metadata"], "status": {**running["status"], "conditions": [condition]}}
    ended = {**pod, "status": {**pod["status"], "conditions": [condition]}}
    return [{**job, "status": {"active": 1}}, job], [running, deleted, ended, *([None] if gone else [])]


@given(
    reason=st.sampled_from(["PreemptionByScheduler", "DeletionByTaintManager", "EvictionByEvictionAPI"]),
    gone=st.booleans(),
    order=st.permutations(["job", "pod", "pod", "pod"]),
    late=st.floats(0, 4.9),
)
def test_a_pod_that_is_taken_away_and_its_failed_job_may_be_seen_in_any_order(
    reason: str, gone: bool, order: list[str], late: float
) -> None:
    """The first end that is read is the right one, whether the watch of the Job or that of its pods is ahead."""
    jobs, pods = _steps(reason, gone)
    expected = read(jobs[-1], [], now=at("10:01:00"), gone=[pods[2]]).observation
    seen: dict[str, int] = {"job": 0, "pod": 0}
    observation = Observation(Phase.STARTING)
    for step in order:
        seen[step] = min(seen[step] + 1, len(jobs if step == "job" else pods) - 1)
        pod = pods[seen["pod"]]
        observation = read(
            jobs[seen["job"]], [pod] if pod else [], now=at("10:00:42") + late, gone=[] if pod else [pods[2]]
        ).observation
        if observation.phase.is_terminal:
            assert (observation.phase, observation.reason) == (expected.phase, expected.reason)
            assert expected.phase in {Phase.PREEMPTED, Phase.LOST}
    assert seen["job"] == 1
    assert observation.phase.is_terminal


def test_an_answer_does_not_depend_on_when_it_is_asked_for_except_as_it_says() -> None:
    """Who caches what was read needs to ask again only then."""
    for scene in SCENES.values():
        reading = read_scene(scene)
        later = at("12:00:00") if reading.again_at is None else reading.again_at - 0.001
        again = read_scene({**scene, "now": datetime.fromtimestamp(later, UTC).strftime("%H:%M:%S.%f")})
        assert again == reading, scene["it"]


# --- what is gone ----------------------------------------------------------------------------------------------------

JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "train", "annotations": {"launchbay.dev/labels": '{"item": "7"}'}},
    "spec": {"backoffLimit": 0},
}
KILLED: dict[str, Any] = {
    "metadata": {"name": "train-abcde"},
    "spec": {"containers": [{"name": "main"}]},
    "status": {
        "phase": "Failed",
        "containerStatuses": [{"name": "main", "state": {"terminated": {"exitCode": 143, "reason": "Error"}}}],
    },
}


def test_a_job_that_somebody_deleted_is_lost_and_told_so() -> None:
    seen = read_gone(JOB, [KILLED], now=at("10:01:00"))
    assert (seen.phase, seen.reason) == (Phase.LOST, "deleted")
    assert seen.message == "The Job train was deleted by somebody else."
    assert seen.labels == {"item": "7"}


def test_a_job_that_was_stopped_and_is_gone_tells_its_exit_code() -> None:
    stopped = {**JOB, "metadata": {**JOB["metadata"], "annotations": {"launchbay.dev/stop": "now"}}}
    seen = read_gone(stopped, [KILLED], now=at("10:01:00"))
    assert (seen.phase, seen.exit_code, seen.reason) == (Phase.STOPPED, 143, "signal:SIGTERM")


def test_a_job_that_was_over_before_it_was_gone_ended_as_it_did() -> None:
    """Its time to live after its end (`ttlSecondsAfterFinished`) is over, or somebody tidied up."""
    complete = {**JOB, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    assert read_gone(complete, now=at("10:01:00")).phase is Phase.FINISHED
    failed = {**JOB, "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}}
    assert read_gone(failed, [KILLED | {"metadata": {}}], now=at("10:01:00")).phase is not Phase.FINISHED


def test_a_pod_that_somebody_deleted_is_lost() -> None:
    pod = {**KILLED, "apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running"}}
    assert read_gone(pod, now=at("10:01:00")).phase is Phase.LOST


# --- whatever it is --------------------------------------------------------------------------------------------------

_WORDS = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "uid",
    "annotations",
    "labels",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
    "spec",
    "parallelism",
    "completions",
    "suspend",
    "schedulingGates",
    "containers",
    "initContainers",
    "restartPolicy",
    "status",
    "phase",
    "reason",
    "message",
    "conditions",
    "type",
    "containerStatuses",
    "state",
    "waiting",
    "running",
    "terminated",
    "exitCode",
    "finishedAt",
    "startedAt",
    "involvedObject",
    "lastTimestamp",
    "batch/v1",
    "Job",
    "Pod",
    "RayJob",
    "ray.io/v1",
    "Failed",
    "Succeeded",
    "True",
    "Complete",
    "Suspended",
    "main",
]
_KEYS = st.sampled_from([word for word in _WORDS if word[0].islower()])
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(_WORDS)
_JSON = st.recursive(
    _LEAVES | st.just("2026-11-21T10:00:00Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=8,
)
_OBJECT = st.dictionaries(_KEYS, _JSON, max_size=5)


@settings(max_examples=60)
@given(_OBJECT, st.lists(_OBJECT, max_size=2), st.lists(_OBJECT, max_size=2), st.lists(_OBJECT, max_size=2))
def test_no_json_is_too_strange(
    strange: dict[str, Any], pods: list[dict[str, Any]], events: list[dict[str, Any]], gone: list[dict[str, Any]]
) -> None:
    assert isinstance(read(strange, pods, events, now=at("10:01:00"), gone=gone).observation, Observation)
    assert isinstance(read_gone(strange, gone, events, now=at("10:01:00")), Observation)
    launch_labels(strange)
    for event in events:
        is_about(event, "Job", "train", [])


@settings(max_examples=150)
@given(st.data())
def test_no_scene_with_anything_in_the_place_of_anything_is_too_strange(data: st.DataObject) -> None:
    scene = data.draw(st.sampled_from([*SCENES.values()]))
    places = list(_places({key: scene.get(key, {}) for key in ("object", "pods", "gone", "events")}))
    path = data.draw(st.sampled_from(places))
    strange = json.loads(json.dumps({key: scene.get(key, []) for key in ("object", "pods", "gone", "events")}))
    inner = strange
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = data.draw(_JSON)
    for key in ("pods", "gone", "events"):  # these the backend makes: lists of objects
        listed = strange[key] if isinstance(strange[key], list) else []
        strange[key] = [each for each in listed if isinstance(each, dict)]
    if isinstance(strange["object"], dict):
        assert isinstance(read_scene({**scene, **strange}).observation, Observation)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from _places(each, (*path, key))


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"kind": "Job", "name": "train"}, True),
        ({"kind": "Job", "name": "other"}, False),
        ({"kind": "Pod", "name": "train-abcde"}, True),
        ({"kind": "Pod", "name": "train"}, False),
        ({"kind": "Workload", "name": "job-train-5d1c2"}, True),
        ({"kind": "Workload", "name": "job-training-5d1c2"}, False),
    ],
)
def test_which_events_are_about_a_launch(about: dict[str, str], expected: bool) -> None:
    assert is_about({"involvedObject": about}, "Job", "train", ["train-abcde"]) is expected
    assert is_about({"regarding": about}, "Job", "train", ["train-abcde"]) is expected


def test_events_that_are_repeated_are_shown_once_and_only_the_latest() -> None:
    events = [
        {"reason": f"R{number % 7}", "message": "x" * 1000, "lastTimestamp": f"2026-11-21T10:00:{number:02}Z"}
        for number in range(20)
    ]
    details = read(JOB, [], events, now=at("10:01:00")).observation.details
    assert [line[:4] for line in details] == ["R1: ", "R2: ", "R3: ", "R4: ", "R5: "]
    assert all(len(line) == 300 for line in details)


def test_what_is_read_of_a_launch_that_has_not_changed_is_equal() -> None:
    """The agent compares what it sees with what it saw."""
    for scene in SCENES.values():
        first = read_scene(scene)
        assert replace(first) == read_scene(json.loads(json.dumps(scene)))


def test_every_kind_that_is_known_has_a_reader_of_its_own() -> None:
    raws = [{"apiVersion": api_version, "kind": kind} for api_version, kind in KINDS]
    assert [raw for raw in raws if reader_of(raw) is any_kind] == []
