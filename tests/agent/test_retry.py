"""Whether a failed attempt is followed by another, and when: a table, and what must hold of every budget."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import AgentConfig, RetryRule
from agent.launch import Cause, End, Launch, Outcome, StopReason
from agent.retry import JITTER, next_try

NOW = 10_000.0
PREEMPTED = End(Outcome.PREEMPTED, "taken away", cause=Cause.PREEMPTED)
LOST = End(Outcome.LOST, "gone", cause=Cause.NODE_LOST)
REFUSED = End(Outcome.FAILED, "no quota", cause=Cause.INFRASTRUCTURE)


def launch(**values: Any) -> Launch:
    """Return a launch that was claimed a while ago."""
    return Launch("item-1", 1, "q", {}, "run-1", claimed_at=NOW - 100, **values)


def failed(code: int) -> End:
    """Return the end of a job that failed by itself."""
    return End(Outcome.FAILED, "failed", code, stage="run")


def rules(*raw: dict[str, Any]) -> tuple[RetryRule, ...]:
    """Return rules as the configuration gives them."""
    return AgentConfig.model_validate({"retries": raw}).retries


RULES = rules(
    {"on": ["preempted", "node_lost"], "attempts": 2},
    {"on": ["infrastructure", {"exit_code": [75, 137]}], "attempts": 1, "total_seconds": 1000},
)


@pytest.mark.parametrize(
    ("held", "end", "budget"),
    [
        pytest.param(launch(), PREEMPTED, "preempted", id="preempted"),
        pytest.param(launch(), LOST, "node_lost", id="node lost"),
        pytest.param(launch(), REFUSED, "infrastructure", id="infrastructure"),
        pytest.param(launch(), failed(137), "exit_code:137", id="an exit code of the list"),
        pytest.param(launch(), failed(1), None, id="another exit code is the workload's own failure"),
        pytest.param(launch(), End(Outcome.FINISHED, "", 75), None, id="finished"),
        pytest.param(launch(), End(Outcome.STOPPED, "", 137), None, id="stopped"),
        pytest.param(launch(stop=StopReason.REQUEST), PREEMPTED, None, id="somebody wants it stopped"),
        pytest.param(launch(stop=StopReason.DRAIN), PREEMPTED, None, id="the agent was told to stop it"),
        pytest.param(launch(stop=StopReason.START_TIMEOUT), REFUSED, "infrastructure", id="it did not start in time"),
        pytest.param(launch(tries={"preempted": 1}), PREEMPTED, "preempted", id="the second time"),
        pytest.param(launch(tries={"preempted": 2}), PREEMPTED, None, id="the budget is spent"),
        pytest.param(launch(tries={"preempted": 2}), LOST, "node_lost", id="each cause has a budget of its own"),
        pytest.param(launch(tries={"exit_code:75": 1}), failed(137), "exit_code:137", id="and so each exit code"),
    ],
)
def test_next_try(held: Launch, end: End, budget: str | None) -> None:
    retry = next_try(held, end, RULES, NOW, Random(1))
    assert (retry and retry.budget) == budget
    if retry and budget:
        assert retry.number == held.tries.get(budget, 0) + 1 <= retry.allowed


def test_what_fails_before_its_start_by_its_own_fault_is_not_tried_again() -> None:
    always = rules({"on": ["workload"]})
    assert next_try(launch(), End(Outcome.FAILED, "no such job"), always, NOW, Random(1)) is None
    assert next_try(launch(), failed(1), always, NOW, Random(1)) is not None


def test_no_retry_begins_too_late() -> None:
    late = launch()
    late.claimed_at = NOW - 995
    assert next_try(late, REFUSED, RULES, NOW, Random(1)) is None
    assert next_try(late, PREEMPTED, RULES, NOW, Random(1)) is not None, "that rule has no such limit"


def test_the_first_rule_that_matches_decides() -> None:
    twice = rules({"on": ["preempted"], "attempts": 1}, {"on": ["preempted"], "attempts": 9})
    assert next_try(launch(tries={"preempted": 1}), PREEMPTED, twice, NOW, Random(1)) is None


def test_without_rules_only_preemption_is_tried_again() -> None:
    default = AgentConfig().retries
    assert next_try(launch(), PREEMPTED, default, NOW, Random(1)) is not None
    for end in (LOST, REFUSED, failed(1), failed(137)):
        assert next_try(launch(), end, default, NOW, Random(1)) is None


@given(st.integers(0, 40), st.integers(0, 1000), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_pauses_double_up_to_the_longest(number: int, first: int, longest: int, random: Random) -> None:
    rule = rules({"on": ["preempted"], "attempts": 100, "first_seconds": first, "longest_seconds": longest})
    retry = next_try(launch(tries={"preempted": number}), PREEMPTED, rule, NOW, random)
    assert retry is not None
    pause = min(first * 2**number, longest)
    assert pause * (1 - JITTER) - 1e-6 <= retry.not_before - NOW <= pause * (1 + JITTER) + 1e-6
