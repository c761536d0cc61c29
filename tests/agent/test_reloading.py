"""Reloading: what changed, what may change, and when the file is read."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from agent.config.file import load
from agent.config.model import AgentConfig
from agent.config.reloading import AT_THE_START, Change, changes, needs_restart, reload_on_change

LOOK_SECONDS = 0.005


def config(**values: Any) -> AgentConfig:
    """Return a configuration that serves a queue."""
    return AgentConfig.model_validate({"queues": ["q"], **values})


# --- what changed -----------------------------------------------------------------------------------------------------


def test_the_same_has_no_changes() -> None:
    assert changes(config(timeouts={"run": 5}), config(timeouts={"run": 5.0})) == []


def test_changes_are_named_by_their_path() -> None:
    old = config(max_jobs=1, queue_limits={"a": 1, "b": 2})
    new = config(max_jobs=4, queue_limits={"b": 3}, timeouts={"run": 60}, retries=[{"on": ["workload"]}])
    assert changes(old, new)[:4] == [
        Change("max_jobs", 1, 4),
        Change("queue_limits.a", 1, None),
        Change("queue_limits.b", 2, 3),
        Change("retries", old.model_dump(mode="json")["retries"], new.model_dump(mode="json")["retries"]),
    ]
    assert changes(old, new)[4:] == [Change("timeouts.run", None, 60.0)]


def test_changes_show_no_secret() -> None:
    old = config(registry={"uri": "https://me:one@r.example", "password": "one", "list": [{"token": "one"}]})
    new = config(registry={"uri": "https://me:two@r.example", "password": "two", "list": [{"token": "two"}]})
    found = changes(old, new)
    assert [change.key for change in found] == ["registry.uri", "registry.password", "registry.list"]
    assert not any(secret in str(found) for secret in ("one", "two"))


OTHERS: dict[str, Any] = {
    "queues": ["r"],
    "entity": "other",
    "resources": ["kubernetes"],
    "name": "other",
    "state_dir": "/other",
    "listen": "127.0.0.1:1",
    "leader_election": {"lease": "other"},
    "slots": {"cpus": 3},
    "limits": {"file": "1MiB"},
    "caches": {"code": None},
    "verbosity": 2,
    "environment": {"type": "aws"},
    "registry": {"type": "ecr"},
    "builder": {"type": "noop"},
    "backends": {"local-process": {"x": 1}},
}
"""Another value of each key that counts at the start alone."""


def test_what_counts_at_the_start_needs_a_restart() -> None:
    assert OTHERS.keys() == AT_THE_START
    for key, value in OTHERS.items():
        found = needs_restart(config(), config(**{key: value}, max_jobs=3))
        assert {change.key.split(".")[0] for change in found} == {key}


def test_schedulers_need_a_restart_only_where_none_could_run() -> None:
    assert [change.key for change in needs_restart(config(max_schedulers=0), config(max_schedulers=2))] == [
        "max_schedulers"
    ]
    assert needs_restart(config(max_schedulers=1), config(max_schedulers=2)) == []
    assert needs_restart(config(max_schedulers=1), config(max_schedulers=0)) == []


# --- taking it up -----------------------------------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is logged, whatever logging other tests have set up."""
    capture = LogCapture()
    level = structlog.make_filtering_bound_logger(0)
    monkeypatch.setattr("agent.config.reloading.log", structlog.wrap_logger(None, [capture], level))
    return capture.entries


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(LOOK_SECONDS)
    pytest.fail("it never held")


@asynccontextmanager
async def running(
    load: Callable[[], AgentConfig], path: Path | None, *, seconds: float = LOOK_SECONDS
) -> AsyncGenerator[tuple[list[AgentConfig], asyncio.Event]]:
    """Reload in the background, from the configuration as it is now; yields what was applied, and SIGHUP."""
    applied: list[AgentConfig] = []
    hangup = asyncio.Event()
    task = asyncio.create_task(reload_on_change(load(), load, applied.append, hangup, path, look_seconds=seconds))
    yield applied, hangup
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration file."""
    path = tmp_path / "config.yaml"
    path.write_text("queues: [q]\nmax_jobs: 1\n")
    return path


async def test_a_changed_file_is_taken_up_and_told(path: Path, said: list[dict[str, Any]]) -> None:
    async with running(lambda: load(path, {}, {}), path) as (applied, _):
        path.write_text("queues: [q]\nmax_jobs: 2\n")
        await until(lambda: applied)
        assert applied == [config(max_jobs=2)]
        assert said == [{"event": "configuration changed", "log_level": "info", "key": "max_jobs", "old": 1, "new": 2}]
        path.unlink()
        path.write_text("queues: [q]\nmax_jobs: 3\n")
        await until(lambda: len(applied) == 2)
        assert applied[1].max_jobs == 3


async def test_a_change_between_the_start_and_the_first_look_is_not_missed(path: Path) -> None:
    old = load(path, {}, {})
    path.write_text("queues: [q]\nmax_jobs: 2\n")
    first = iter([old])
    async with running(lambda: next(first, None) or load(path, {}, {}), path) as (applied, _):
        await until(lambda: applied)
    assert applied == [config(max_jobs=2)]


async def test_on_a_hangup_the_file_is_read_at_once(path: Path, said: list[dict[str, Any]]) -> None:
    async with running(lambda: load(path, {}, {}), path, seconds=3600) as (applied, hangup):
        path.write_text("queues: [q]\nmax_jobs: 5\n")
        hangup.set()
        await until(lambda: applied)
        assert applied[0].max_jobs == 5
        hangup.set()
        await until(lambda: len(said) == 2)
    assert len(applied) == 1
    assert said[1]["event"] == "told to read the configuration again: nothing to change"


async def test_a_file_that_is_written_again_as_it_was_changes_nothing(path: Path, said: list[dict[str, Any]]) -> None:
    reads: list[AgentConfig] = []

    def read() -> AgentConfig:
        reads.append(load(path, {}, {}))
        return reads[-1]

    async with running(read, path) as (applied, _):
        await until(lambda: len(reads) == 2)
        path.write_text("max_jobs: 1\nqueues: [q] # the same\n")
        await until(lambda: len(reads) == 3)
        await asyncio.sleep(5 * LOOK_SECONDS)
    assert (len(reads), applied, said) == (3, [], [])


async def test_a_file_that_is_being_written_is_left_alone(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Until it has been the same for two looks."""
    looks = 0
    stamps = chain([(1,), (1,), (2,), (3,), (4,), (4,)], repeat((4,)))

    def stamp(_: Path | None) -> tuple[int, ...]:
        nonlocal looks
        looks += 1
        return next(stamps)

    read_at: list[int] = []

    def read() -> AgentConfig:
        read_at.append(looks)
        return config()

    monkeypatch.setattr("agent.config.reloading._stamp", stamp)
    async with running(read, path):
        await until(lambda: looks > 10)
    assert read_at == [0, 2, 6]


async def test_a_broken_file_changes_nothing_and_a_mended_one_is_taken_up(
    path: Path, said: list[dict[str, Any]]
) -> None:
    async with running(lambda: load(path, {}, {}), path) as (applied, hangup):
        path.write_text("queues: [q]\nmax_job: 2\n")
        await until(lambda: said)
        assert said[0]["log_level"] == "error"
        assert "`max_job` is not a known key. Did you mean `max_jobs`?" in said[0]["error"]
        path.unlink()
        hangup.set()
        await until(lambda: len(said) == 2)
        assert "cannot be read" in said[1]["error"]
        assert applied == []
        path.write_text("queues: [q]\nmax_jobs: 2\n")
        await until(lambda: applied)
    assert applied == [config(max_jobs=2)]


async def test_what_needs_a_restart_keeps_its_value_and_is_named(path: Path, said: list[dict[str, Any]]) -> None:
    async with running(lambda: load(path, {}, {}), path) as (applied, hangup):
        path.write_text("queues: [q]\nmax_jobs: 2\nentity: other\nregistry: {password: hunter2}\n")
        hangup.set()
        await until(lambda: applied)
        assert applied == [config(max_jobs=2)]
        told = {entry["key"]: entry for entry in said}
        assert told["entity"] == {
            "event": "takes effect when the agent is started again",
            "log_level": "warning",
            "key": "entity",
            "now": None,
            "then": "other",
        }
        assert (told["registry.password"]["now"], told["registry.password"]["then"]) == (None, "<redacted>")
        assert told["max_jobs"]["event"] == "configuration changed"
        # Compared with what is in force, not with what the file said: it is still to come.
        path.write_text("queues: [q]\nmax_jobs: 3\nentity: other\n")
        hangup.set()
        await until(lambda: len(applied) == 2)
        assert applied[1] == config(max_jobs=3)


async def test_variables_and_flags_stay_over_the_file(path: Path) -> None:
    def read() -> AgentConfig:
        return load(path, {"WANDB_LAUNCH_MAX_JOBS": "7"}, {"queues": ("flag",)})

    async with running(read, path) as (applied, _):
        path.write_text("queues: [other]\nmax_jobs: 2\nsecure_mode: true\n")
        await until(lambda: applied)
    assert applied == [config(queues=["flag"], max_jobs=7, secure_mode=True)]


async def test_without_a_file_a_hangup_is_still_answered(said: list[dict[str, Any]]) -> None:
    async with running(config, None) as (applied, hangup):
        hangup.set()
        await until(lambda: said)
    assert applied == []
