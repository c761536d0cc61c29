"""Puts together what an object, its pods and the events say: the phase of a launch. Pure.

A terminal condition of the object decides; pods only explain. So it does not matter which of them was seen first, and
an answer depends on what is there now and on nothing that was read before.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from backends.base import Observation, Phase
from backends.kubernetes import names
from backends.kubernetes.api import KubeObject
from backends.kubernetes.reading.creation import refusal
from backends.kubernetes.reading.endings import Ending, ending_of, ending_told, was_deleted
from backends.kubernetes.reading.events import Event, events_of, shown
from backends.kubernetes.reading.fields import mapping, name_of, sentence, text, when
from backends.kubernetes.reading.kinds import told_by
from backends.kubernetes.reading.pods import Pod, first_start, pods_of
from backends.kubernetes.reading.told import State, Told
from backends.kubernetes.reading.waits import Wait, crash_of, wait_of

KUEUES_QUEUE = "kueue.x-k8s.io/queue-name"

CATCH_UP_SECONDS = 5.0
"""How long the end of an object waits for its pods to tell why: they are watched apart, and either may be ahead."""
LINGER_SECONDS = 10.0
"""How long after its grace period a pod is taken to be at its end that has not said so: its node may be gone."""
SETTLE_SECONDS = 10.0
"""How long all pods of an object that says nothing itself must be over, until it is."""
SAME_TRY_SECONDS = 5.0
"""Pods that were made within this time of each other belong to the same try of an object with several."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read, and when it will have to be read again though nothing changes."""

    observation: Observation
    again_at: float | None = None
    """Seconds since the epoch; None if time alone changes nothing."""


@dataclass(frozen=True, slots=True)
class _Seen:
    raw: KubeObject
    pods: Sequence[Pod]
    events: Sequence[Event]
    told: Told
    now: float

    @property
    def is_stopped(self) -> bool:
        """Whether we stopped it."""
        return bool(text(self.raw, "metadata", "annotations", names.STOP))


def read(
    raw: KubeObject,
    pods: Iterable[KubeObject],
    events: Iterable[KubeObject] = (),
    *,
    now: float,
    gone: Iterable[KubeObject] = (),
) -> Reading:
    """Read how a launch is.

    `gone` are the last forms of pods that are not there any more. They explain: of a pod that was preempted nothing
    else may be left when its Job is said to have failed. `now` is in seconds since the epoch.
    """
    its = pods_of(raw, [raw] if _is_pod(raw) else pods, gone)
    seen = _Seen(raw, its, events_of(events), told_by(raw, its), now)
    reading = _reading(seen)
    if reading.observation.phase.is_terminal and seen.is_stopped:
        reading = Reading(replace(reading.observation, phase=Phase.STOPPED, message="", is_platforms_fault=False))
    return _dressed(seen, reading)


def read_gone(
    last: KubeObject,
    pods: Iterable[KubeObject] = (),
    events: Iterable[KubeObject] = (),
    *,
    now: float,
) -> Observation:
    """Read how a launch ended whose object is not there any more, by the last forms of it and of its pods."""
    its = pods_of(last, (), [last] if _is_pod(last) else pods)
    seen = _Seen(last, its, events_of(events), told_by(last, its), now)
    ending = _why(seen)
    if seen.is_stopped:
        code, reason = (ending.exit_code, ending.reason) if ending else (None, "")
        observation = Observation(Phase.STOPPED, code, reason, ended_at=_ended_at(seen))
    elif seen.told.state in {State.SUCCEEDED, State.FAILED}:
        observation = _end(seen).observation
    else:
        message = f"The {text(last, 'kind') or 'object'} {name_of(last)} was deleted by somebody else."
        observation = Observation(Phase.LOST, reason="deleted", message=message, ended_at=_ended_at(seen))
    return _dressed(seen, Reading(observation)).observation


def launch_labels(raw: KubeObject) -> dict[str, str]:
    """Return what a launch was labelled with at its start."""
    return names.read_labels(mapping(raw, "metadata", "annotations"))


def _reading(seen: _Seen) -> Reading:
    match seen.told.state:
        case State.SUCCEEDED:
            return _end(seen)
        case State.HELD:
            return Reading(_queued(seen))
        case State.FATED if any(not pod.has_ended and not pod.is_deleted for pod in seen.pods):
            return _going(seen)
        case State.FATED | State.FAILED:
            until = _lingering(seen)
            return _end(seen) if until is None else Reading(_going(seen).observation, again_at=until)
        case State.GOING:
            return _going(seen)


def _lingering(seen: _Seen) -> float | None:
    """Return until when pods that were told to end may be at it; None if none is, or if its node will never say so.

    Another try must not begin beside them.
    """
    ends = [when(pod.raw, "metadata", "deletionTimestamp") for pod in seen.pods if not pod.has_ended]
    until = max((end + LINGER_SECONDS for end in ends if end is not None), default=0)
    return until if until > seen.now else None


# --- the end ---------------------------------------------------------------------------------------------------------


def _end(seen: _Seen) -> Reading:
    told = seen.told
    ended_at = _ended_at(seen)
    if told.state is State.SUCCEEDED or told.well:
        return Reading(Observation(Phase.FINISHED, 0, started_at=first_start(seen.pods), ended_at=ended_at))
    if (until := _catching_up(seen)) is not None:
        return Reading(_going(seen).observation, again_at=until)
    ending = _why(seen) or _own_words(seen)
    return Reading(
        Observation(
            ending.phase,
            ending.exit_code,
            ending.reason,
            ending.message,
            ending.is_platforms_fault,
            started_at=first_start(seen.pods),
            ended_at=ended_at,
        )
    )


def _catching_up(seen: _Seen) -> float | None:
    """Return until when the pods may yet say why the object failed; None if they have, or have had their time."""
    told = seen.told
    if told.since is None or told.ending is not None or not told.since <= seen.now < told.since + CATCH_UP_SECONDS:
        return None
    endings = [(pod.has_ended, ending_of(pod, seen.events)) for pod in seen.pods]
    if not told.last_failure_counts and any(ending for _, ending in endings):
        return None
    is_behind = any(not has_ended and ending is None for has_ended, ending in endings)
    return told.since + CATCH_UP_SECONDS if is_behind else None


def _why(seen: _Seen) -> Ending | None:
    """Return why it failed: what the object says for certain, else what its pods tell."""
    told = seen.told
    if told.ending is not None and told.ending.phase is Phase.FAILED and told.ending.exit_code is None:
        return told.ending
    found = [(pod, ending) for pod in seen.pods if (ending := ending_of(pod, seen.events))]
    genuine = [(pod, ending) for pod, ending in found if not ending.is_consequence]
    if not genuine and told.ending is not None:
        return told.ending
    if not genuine and told.reason == "BackoffLimitExceeded" and not seen.is_stopped:
        if not seen.pods:
            return ending_told(seen.events)
        deleted = next((pod for pod in reversed(seen.pods) if pod.is_deleted), None)
        return was_deleted(deleted) if deleted else None
    chosen = _chosen(genuine or found, seen.pods, last=told.last_failure_counts)
    return _worded(seen, *chosen) if chosen else None


def _chosen(found: list[tuple[Pod, Ending]], pods: Sequence[Pod], *, last: bool) -> tuple[Pod, Ending] | None:
    if last:
        return max(found, key=lambda each: each[0].key, default=None)
    begun = min((pod.created_at for pod in pods if not pod.is_gone and pod.created_at), default=0)
    this_try = [each for each in found if (each[0].created_at or 0) > begun - SAME_TRY_SECONDS]
    return min(this_try or found, key=lambda each: (each[1].at or float("inf"), each[0].key), default=None)


def _worded(seen: _Seen, pod: Pod, ending: Ending) -> Ending:
    """Return an ending with what is said where there are several pods, or where the object has words of its own."""
    words = [ending.message] if ending.message else []
    if len(seen.pods) > 1:
        words = words or [f"The job ended with exit code {ending.exit_code}."]
        words.append(f"That was pod {pod.name}.")
    if seen.told.reason in {"PodFailurePolicy", "FailedIndexes", "MaxFailedIndexesExceeded", "ReachedMaxRestarts"}:
        words.append(f"{_kind(seen)} says: {sentence(seen.told.message)}")
    return replace(ending, message=" ".join(words))


def _own_words(seen: _Seen) -> Ending:
    told = seen.told
    reason = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", told.reason).lower()
    said = sentence(told.message) or sentence(told.reason) or "it does not say why."
    return Ending(Phase.FAILED, reason or "failed", f"{_kind(seen)} failed: {said}")


def _ended_at(seen: _Seen) -> float | None:
    ends = [pod.ended_at for pod in seen.pods if pod.ended_at]
    return max(ends, default=None) or seen.told.since


# --- before the end --------------------------------------------------------------------------------------------------


def _queued(seen: _Seen) -> Observation:
    told = seen.told
    queue = text(seen.raw, "metadata", "labels", KUEUES_QUEUE)
    reason, message = told.reason or "suspended", told.message
    if queue:
        said = next((event.message for event in reversed(seen.events) if event.kind == "Workload"), "")
        said = said or next((event.message for event in reversed(seen.events) if event.reason == "Stopped"), "")
        message = f"Kueue has not let it in yet, in its queue {queue}. {sentence(said)}".rstrip()
    elif not message:
        message = f"{_kind(seen)} is suspended: whoever suspended it lets it go on."
    return Observation(Phase.QUEUED, reason=reason, message=message, since=told.since, details=shown(seen.events))


def _going(seen: _Seen) -> Reading:
    live = [pod for pod in seen.pods if not pod.has_ended]
    begun = [pod for pod in live if pod.is_running or (pod.main is not None and pod.main.has_run)]
    waits = [wait_of(pod, seen.events) for pod in live if pod not in begun]
    told = seen.told
    if told.decides_alone:
        if told.runs:
            return Reading(_running(seen, begun, waits))
        waits = waits or [Wait("Its pods run; the job itself does not yet.", since=told.since)]
    elif begun or any(pod.phase == "Succeeded" for pod in seen.pods) or (_is_deleted(seen) and not live and seen.pods):
        if not live and (reading := _silent_end(seen)):
            return reading
        return Reading(_running(seen, begun, waits))
    elif not seen.pods and told.runs:
        return Reading(_running(seen, begun, waits))
    elif not live and (reading := _silent_end(seen)):
        return reading
    return Reading(_starting(seen, live, waits))


def _is_deleted(seen: _Seen) -> bool:
    return bool(text(seen.raw, "metadata", "deletionTimestamp"))


def _silent_end(seen: _Seen) -> Reading | None:
    """Return the end of an object that says nothing itself, and whose pods are all over; None of any other."""
    ended_at = _ended_at(seen)
    if seen.told.has_status or seen.told.runs is not None or ended_at is None or not _is_known_by_pods(seen):
        return None
    if seen.now < ended_at + SETTLE_SECONDS:
        return Reading(_running(seen, [], []), again_at=ended_at + SETTLE_SECONDS)
    ending = _why(seen)
    if ending is None:
        return Reading(Observation(Phase.FINISHED, 0, started_at=first_start(seen.pods), ended_at=ended_at))
    return _end(seen)


def _is_known_by_pods(seen: _Seen) -> bool:
    return bool(seen.pods) and all(pod.phase in {"Succeeded", "Failed"} for pod in seen.pods)


def _running(seen: _Seen, begun: Sequence[Pod], waits: Sequence[Wait]) -> Observation:
    trouble = next((crash for pod in begun if (crash := crash_of(pod))), None)
    if trouble is None:
        waiting = min((wait for wait in waits if wait.reason), key=lambda wait: wait.weight, default=None)
        if waiting is not None:
            count = f"{len(begun)} of {len(begun) + len(waits)} pods run. "
            trouble = replace(waiting, message=count + waiting.message)
    return Observation(
        Phase.RUNNING,
        reason=trouble.reason if trouble else "",
        message=trouble.message if trouble else "",
        started_at=first_start(seen.pods) or seen.told.since,
        details=shown(seen.events) if trouble else (),
    )


def _starting(seen: _Seen, live: Sequence[Pod], waits: Sequence[Wait]) -> Observation:
    may_run_since = min((pod.created_at for pod in live if pod.created_at), default=None) or _handed_over(seen)
    wait = min(
        (wait for wait in waits if wait.phase is not Phase.QUEUED) if _any_let_in(waits) else waits,
        key=lambda wait: wait.weight,
        default=None,
    )
    wait = wait or refusal(seen.events, may_run_since) or _between(seen, may_run_since)
    is_queued = wait.phase is Phase.QUEUED
    return Observation(
        wait.phase,
        exit_code=wait.exit_code if wait.hopeless_at is not None else None,
        reason=wait.reason,
        message=wait.message,
        is_platforms_fault=wait.is_platforms_fault,
        started_at=None if is_queued else may_run_since,
        step=wait.step,
        since=wait.since,
        hopeless_at=wait.hopeless_at,
        details=shown(seen.events),
    )


def _any_let_in(waits: Sequence[Wait]) -> bool:
    return any(wait.phase is not Phase.QUEUED for wait in waits)


def _handed_over(seen: _Seen) -> float | None:
    """Return since when there could be pods: since the last ones ended, or since the object may begin."""
    ends = [pod.ended_at for pod in seen.pods if pod.ended_at]
    return max(ends, default=None) or seen.told.since or when(seen.raw, "metadata", "creationTimestamp")


def _between(seen: _Seen, since: float | None) -> Wait:
    """Return what there is to say of an object without pods that run or wait."""
    failed = [(pod, ending) for pod in seen.pods if (ending := ending_of(pod, seen.events))]
    if failed:
        pod, ending = max(failed, key=lambda each: each[0].key)
        why = ending.message or f"It ended with exit code {ending.exit_code}."
        return Wait(
            f"{why} (pod {pod.name}) {_kind(seen)} tries again, or is about to end.", ending.reason, since=since
        )
    return Wait(f"{_kind(seen)} has no pods yet.", since=since)


# --- what every answer has -------------------------------------------------------------------------------------------


def _dressed(seen: _Seen, reading: Reading) -> Reading:
    seen_as = reading.observation
    failed = seen_as.phase in {Phase.FAILED, Phase.LOST, Phase.PREEMPTED}
    observation = replace(
        seen_as,
        image=next((image for pod in seen.pods if (image := _image(pod))), ""),
        labels=launch_labels(seen.raw),
        details=shown(seen.events) if failed else seen_as.details,
    )
    return replace(reading, observation=observation)


def _image(pod: Pod) -> str:
    found = text(pod.main.raw, "imageID") if pod.main else ""
    return found.removeprefix("docker-pullable://")


def _kind(seen: _Seen) -> str:
    return f"The {text(seen.raw, 'kind') or 'object'}"


def _is_pod(raw: KubeObject) -> bool:
    return text(raw, "kind") == "Pod" and bool(mapping(raw, "metadata"))
