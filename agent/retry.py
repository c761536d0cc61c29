"""Retry: whether a failed attempt is followed by another, and when. Pure.

Waiting is not retrying: a launch that waits for room, slots or a server that is away stays where it is. Only an attempt
that has failed is tried again, within the budget that the rule gives to its cause. A retry keeps its item and its run
id, so that a job which saves its state goes on where it was.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from agent.config.model import ExitCodes, RetryRule
from agent.launch import Cause, End, Launch, Outcome

JITTER = 0.2
"""Retries of many launches that failed together are spread by this share of the pause, either way."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt."""

    budget: str
    """Whose budget it is taken from."""
    number: int
    """Which of its attempts this is, from 1."""
    allowed: int
    not_before: float
    """Seconds since the epoch."""


def next_try(launch: Launch, end: End, rules: Iterable[RetryRule], now: float, random: Random) -> Retry | None:
    """Return the retry that the first matching rule allows after an attempt that ended so; None if it is the end."""
    if end.outcome in {Outcome.FINISHED, Outcome.STOPPED} or launch.is_unwanted:
        return None
    if end.cause is Cause.WORKLOAD and end.stage != "run":
        return None  # what cannot be started, or may not be, is so the next time as well
    for rule in rules:
        budget = _budget(rule, end)
        if budget is None:
            continue
        number = launch.tries.get(budget, 0) + 1
        pause = min(rule.first_seconds * 2 ** (number - 1), rule.longest_seconds)
        due = now + pause * (1 + JITTER * (2 * random.random() - 1))
        late = rule.total_seconds is not None and due - launch.claimed_at > rule.total_seconds
        return None if number > rule.attempts or late else Retry(budget, number, rule.attempts, due)
    return None


def _budget(rule: RetryRule, end: End) -> str | None:
    """Return the name of the budget from which a rule allows a retry after this end."""
    for cause in rule.on:
        if isinstance(cause, ExitCodes):
            if end.exit_code in cause.exit_code and end.outcome is Outcome.FAILED:
                return f"exit_code:{end.exit_code}"
        elif cause is end.cause:
            return cause.value
    return None
