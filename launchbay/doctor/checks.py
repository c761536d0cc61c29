"""A check: looks at one thing and says what it found and what to do. All run at once, each with a time limit."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import structlog

from agent.config.model import AgentConfig
from agent.control_plane import ControlPlane
from protocol.errors import LaunchbayError

CHECK_SECONDS = 10.0

log = structlog.get_logger(__name__)


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    """Not as it should be, and this configuration does without."""
    PROBLEM = "problem"
    """Not as it should be, and this configuration needs it."""
    SKIPPED = "skipped"
    """Not looked at, or not there and not needed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    verdict: Verdict
    found: str
    todo: str = ""
    """What to do about it."""
    is_absent: bool = False
    """There is nothing of the kind, as opposed to something broken."""


def ok(found: str) -> Finding:
    """It is as it should be."""
    return Finding(Verdict.OK, found)


def warning(found: str, todo: str = "") -> Finding:
    """It works, and somebody should know."""
    return Finding(Verdict.WARNING, found, todo)


def broken(found: str, todo: str) -> Finding:
    """It is there and does not work."""
    return Finding(Verdict.PROBLEM, found, todo)


def absent(found: str, todo: str) -> Finding:
    """It is not there."""
    return Finding(Verdict.PROBLEM, found, todo, is_absent=True)


def skipped(why: str) -> Finding:
    """It cannot be looked at."""
    return Finding(Verdict.SKIPPED, why)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks look at."""

    config: AgentConfig
    """The agent's, or the defaults where it is not valid."""
    config_finding: Finding
    server: ControlPlane
    key_problem: str
    """Why there is no API key; empty if there is one."""
    environment: Mapping[str, str]
    home: Path


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    name: str
    look: Callable[[Surroundings], Awaitable[Finding]]
    is_needed: Callable[[AgentConfig], bool]
    """Whether an agent with this configuration works only if it is as it should be."""


async def run_checks(
    checks: Sequence[Check], around: Surroundings, *, seconds: float = CHECK_SECONDS
) -> dict[str, Finding]:
    """Run all checks at once; returns the findings by name, in the order of the checks."""
    findings = await asyncio.gather(*(_run(check, around, seconds) for check in checks))
    return {check.name: finding for check, finding in zip(checks, findings, strict=True)}


async def _run(check: Check, around: Surroundings, seconds: float) -> Finding:
    try:
        async with asyncio.timeout(seconds):
            finding = await check.look(around)
    except TimeoutError:
        finding = broken(f"no answer within {seconds:g} s", "Look at the network, or at what it should reach.")
    except LaunchbayError as error:
        finding = broken(str(error), "")
    except Exception as error:  # a bug in one check must not hide what the others found
        log.exception("a check failed", check=check.name)
        finding = broken(f"the check itself failed: {type(error).__name__}", "That is a bug; please report it.")
    if finding.verdict is not Verdict.PROBLEM or check.is_needed(around.config):
        return finding
    if finding.is_absent:
        return Finding(Verdict.SKIPPED, f"{finding.found}; this configuration does not need it")
    return replace(finding, verdict=Verdict.WARNING)
