"""Understands what BuildKit's clients say of a build that failed: which step, why, and who is at fault. Pure."""

import re

from agent.errors import LaunchFailed
from agent.launch import Cause

SHOWN_CHARS = 1000
_STEP = re.compile(r"^ > (.+):\r?$", re.MULTILINE)
_ERROR = re.compile(r"^(?:ERROR|error): (.+)$", re.MULTILINE)
"""As buildx and buildctl have it."""
_WRAPPED = re.compile(
    r"^(?:failed to (?:build|solve|create LLB definition)(?: with frontend [\w.]+)?: |rpc error: code = \w+ desc = "
    r"|executor failed running \[.*\]: |process \".*\" did not complete successfully: )+"
)
"""What programs put before the cause that one of them has found."""
_ELSEWHERE = re.compile(
    r"dial tcp|connection refused|i/o timeout|no such host|TLS handshake|no space left|unexpected status"
)
"""Not the job's fault, whatever step it happens in."""
_SAID = re.compile(r"^------\r?\n > \[.*\n((?:(?!------).*\n)*)", re.MULTILINE)
"""The end of a failed step's own output, which the plugin shows once more."""
_NO_NETWORK = re.compile(
    r"^.*(?:error sending request for url|Failed to establish a new connection|Temporary failure (?:in name )?resol"
    r"|Could not resolve host).*$",
    re.MULTILINE,
)
"""What uv, pip, apt, git and curl say where they reach nobody."""


def build_failed(image: str, said: str, otherwise: str, builder: str) -> LaunchFailed:
    """Return why a build failed, by the end of what BuildKit's client said; `otherwise` is the cause if it said none.

    `builder` is what people are to look at if the job is not at fault.
    """
    why = last_error(said) or otherwise
    steps = _STEP.findall(said)
    # Steps of a Dockerfile stand in brackets; exporting and pushing are steps too, and the machine's business. So is
    # looking for a cache, which may fail beside the step that matters.
    own_steps = [step for step in steps if step.startswith("[")]
    where = f" at step {(own_steps or steps)[-1][:SHOWN_CHARS]!r}" if steps else ""
    is_own_fault = bool(own_steps or "dockerfile parse error" in why) and not _ELSEWHERE.search(why)
    advice = "Correct the Dockerfile or the requirements" if is_own_fault else f"See that builds work {builder}"
    if is_own_fault and (lost := _NO_NETWORK.search("\n".join(_SAID.findall(said)))):
        is_own_fault = False
        why = f"{why} ({lost[0].strip()[:SHOWN_CHARS]})"
        advice = f"See that steps of builds reach what they ask for {builder}"
    return LaunchFailed(
        f"Building the image {image} failed{where}: {why}. {advice}; the whole log is attached.",
        stage="build",
        reason="build_failed" if is_own_fault else "builder",
        cause=Cause.WORKLOAD if is_own_fault else Cause.INFRASTRUCTURE,
    )


def last_error(said: str) -> str | None:
    """Return the last thing that BuildKit's client said that was wrong; None if nothing was."""
    found = _ERROR.findall(said)
    if not found:
        return None
    return _WRAPPED.sub("", found[-1].strip()).rstrip(".")[:SHOWN_CHARS]
