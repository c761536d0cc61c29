"""Why a build in a cluster failed, and whose fault that is."""

import pytest

from agent.building.cluster import explained
from agent.errors import LaunchFailed
from agent.launch import Cause
from backends.base import Observation, Phase
from backends.kubernetes.builds import BuildFailed


@pytest.mark.parametrize(
    ("seen", "said", "words", "cause"),
    [
        pytest.param(
            Observation(Phase.FAILED, 1),
            "------\n > [2/2] RUN false:\n------\nerror: failed to solve: process x\n",
            r"at step '\[2/2\] RUN false': process x\. Correct the Dockerfile",
            Cause.WORKLOAD,
            id="step",
        ),
        pytest.param(
            Observation(Phase.FAILED, 1),
            "could not connect\n[rootlesskit:parent] error: operation not permitted\n",
            r"operation not permitted\. See that builds work in the cluster",
            Cause.INFRASTRUCTURE,
            id="no user namespaces",
        ),
        pytest.param(
            Observation(Phase.FAILED, 75, "init_failed", "The server is away."),
            "",
            "in the cluster failed: The server is away",
            Cause.INFRASTRUCTURE,
            id="server",
        ),
        pytest.param(
            Observation(Phase.FAILED, 1, "init_failed", "The code is too large."),
            "",
            "large",
            Cause.WORKLOAD,
            id="code",
        ),
        pytest.param(
            Observation(Phase.FAILED, 137, "oom_killed", "More memory."), "", "More memory", Cause.WORKLOAD, id="memory"
        ),
        pytest.param(
            Observation(Phase.PREEMPTED, reason="evicted", message="Evicted."),
            "",
            "Evicted",
            Cause.INFRASTRUCTURE,
            id="evicted",
        ),
    ],
)
def test_why_a_build_in_a_cluster_failed_is_told(seen: Observation, said: str, words: str, cause: Cause) -> None:
    failed = explained(BuildFailed(seen), "registry.test/x:1", said)
    with pytest.raises(LaunchFailed, match=words):
        raise failed
    assert (failed.stage, failed.cause) == ("build", cause)
