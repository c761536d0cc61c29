"""Resolve: nothing is fetched for a launch that policy refuses, and no password in a remote is shown to anybody."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from agent.caches.artifacts import ArtifactCache, ArtifactVersion
from agent.caches.bounded import BoundedCache
from agent.caches.environments import Environments
from agent.launch import Launch
from agent.redaction import SECRETS
from agent.resolve import JOB_FILE
from backends.fake import Behavior
from protocol.names import ArtifactName
from tests.agent.world import World, until, world

JOB = {"job": "admin/p/train:v1"}
REMOTE = "https://me:s3cret@127.0.0.1:9/team/code"
CODE_JOB: dict[str, Any] = {
    "source_type": "artifact",
    "source": {"artifact": "wandb-artifact://_id/code", "entrypoint": ["python", "train.py"]},
}
GIT_JOB: dict[str, Any] = {
    "source_type": "repo",
    "source": {"git": {"remote": REMOTE}, "entrypoint": ["python", "train.py"]},
}
IMAGE_JOB: dict[str, Any] = {"source_type": "image", "source": {"image": "evil.test/x"}}


@dataclass
class Fetched:
    """In the cache's place: gives every job this job file, and keeps what was asked for."""

    folder: Path
    job: dict[str, Any]
    asked: list[str] = field(default_factory=list[str])

    async def find(self, name: ArtifactName) -> ArtifactVersion:
        self.asked.append(str(name))
        return ArtifactVersion("job", "")

    async def by_id(self, artifact_id: str) -> ArtifactVersion:
        self.asked.append(artifact_id)
        return ArtifactVersion(artifact_id, "")

    async def fetch(self, version: ArtifactVersion, launch: Launch) -> Path:
        launch.use(version.id)
        folder = self.folder / version.id
        folder.mkdir(exist_ok=True)
        (folder / JOB_FILE).write_text(json.dumps(self.job))
        return folder


@pytest.fixture(name="made")
async def _made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def ended(made: World, job: dict[str, Any], changes: dict[str, Any], **config: Any) -> tuple[list[str], str]:
    """Run a launch of this job on an agent so configured: what was fetched for it, and what its item says."""
    async with made.agent(**config) as daemon:
        fetched = Fetched(made.folder, job)
        daemon._context.artifacts = cast(ArtifactCache, fetched)
        item = await made.in_state(await made.push(**{**JOB, **changes}), "FAILED", "FINISHED")
    return fetched.asked, (item["error"] or {}).get("message", "")


def args(**resource_args: Any) -> dict[str, Any]:
    """Return what a spec says of its resource args."""
    return {"resource_args": {"local-process": resource_args}}


async def test_policy_sees_services_as_they_will_be_made(made: World) -> None:
    """What a macro stands for is what counts, not its name."""
    policy = {"images": ["good.test/*"], "macro_environment": ["REGISTRY"]}
    for registry, said in (("good.test", ""), ("evil.test", "the launch asks for the image 'evil.test/x'")):
        services = [{"name": "x", "config": {"spec": {"image": "${REGISTRY}/x"}}}]
        async with made.agent(policy=policy) as daemon:
            daemon._context.process_environment = {"REGISTRY": registry}
            item_id = await made.push(additional_services=services)
            item = await made.in_state(item_id, "FAILED", "FINISHED")
        assert said in (item["error"] or {"message": ""})["message"]
        assert len(made.platform.started) == 1, "the first one alone"


@pytest.mark.parametrize(
    ("changes", "config", "rule"),
    [
        pytest.param({}, {"resources": ["local-container"]}, "resources", id="resource"),
        pytest.param({"overrides": {"entry_point": ["sh"]}}, {"secure_mode": True}, "secure_mode", id="entry point"),
        pytest.param(args(command="sh"), {"secure_mode": True}, "secure_mode", id="command"),
        pytest.param(args(cpus=1), {"policy": {"resource_args": {}}}, "policy.resource_args", id="resource arg"),
        pytest.param(args(image="evil.test/x"), {"policy": {"images": ["good.test/*"]}}, "policy.images", id="image"),
    ],
)
async def test_what_the_spec_alone_says_is_refused_before_anything_is_fetched(
    made: World, changes: dict[str, Any], config: dict[str, Any], rule: str
) -> None:
    fetched, said = await ended(made, CODE_JOB, changes, **config)
    assert f"Refused by `{rule}`" in said
    assert fetched == []


@pytest.mark.parametrize(
    ("job", "policy", "rule"),
    [
        pytest.param(GIT_JOB, {"git_hosts": ["other.test"]}, "policy.git_hosts", id="git host"),
        pytest.param(IMAGE_JOB, {"images": ["good.test/*"]}, "policy.images", id="image"),
        pytest.param(
            {**CODE_JOB, "source": {**CODE_JOB["source"], "base_image": "evil.test/x"}},
            {"images": ["good.test/*"]},
            "policy.images",
            id="base image",
        ),
    ],
)
async def test_what_the_job_says_is_refused_before_its_code_is_fetched(
    made: World, job: dict[str, Any], policy: dict[str, Any], rule: str
) -> None:
    fetched, said = await ended(made, job, {}, policy=policy)
    assert f"Refused by `{rule}`" in said
    assert fetched == ["admin/p/train:v1"]


async def test_a_jobs_image_is_looked_at_when_it_is_known(made: World) -> None:
    """A queue may name it by a macro, which stands for itself until the job has been read."""
    policy = {"images": ["evil.test/*"]}
    named = args(image="${image_uri}")
    _, said = await ended(made, IMAGE_JOB, named, policy=policy)
    assert "cannot run the image 'evil.test/x'" in said, "and no rule is in the way"
    fetched, said = await ended(made, CODE_JOB, named, policy=policy)
    assert "Refused by `policy.images`: '${image_uri}' is no image reference" in said
    assert fetched == ["admin/p/train:v1"], "not its code"


async def test_what_is_allowed_is_fetched(made: World) -> None:
    fetched, said = await ended(made, CODE_JOB, {}, policy={"images": [], "git_hosts": [], "resource_args": {}})
    assert fetched == ["admin/p/train:v1", "code"]
    assert "failed to call wandb.init" in said, "it ran"


async def test_what_its_requirements_name_is_refused_before_anything_is_installed(made: World) -> None:
    (made.folder / "code").mkdir()
    (made.folder / "code" / "requirements.txt").write_text("x @ git+https://me:s3cret@evil.test/x\n")
    _, said = await ended(made, CODE_JOB, {}, policy={"git_hosts": ["good.test"]})
    assert (
        "Refused by `policy.git_hosts`: the job's requirements name a URL at 'evil.test'. Allowed: good.test." in said
    )


async def test_no_remote_with_a_password_is_shown(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on the item, nor in its log, nor in the agent's log or journal, whatever goes wrong with it."""
    lines: list[Any] = []

    def keep(_: Any, __: str, event: Any) -> Any:
        lines.append(event)
        raise structlog.DropEvent

    processors = structlog.get_config()["processors"]  # changed in place, as loggers may be set up already
    before = [*processors]
    processors[:] = [structlog.processors.format_exc_info, SECRETS, keep]
    monkeypatch.setattr("agent.drive.REPORT_AGAIN_SECONDS", 0.1)
    try:
        _, no_git = await ended(made, GIT_JOB, {})
        assert "The git remote https://127.0.0.1:9/team/code cannot be reached" in no_git
        _, refused = await ended(made, GIT_JOB, {}, policy={"git_hosts": []})
        assert "'127.0.0.1'" in refused
        _, broken = await ended(made, {"source_type": REMOTE}, {})
        assert "`source_type` is 'https://<redacted>@127.0.0.1:9/team/code'" in broken

        async def bug(*_: Any) -> Any:
            raise ZeroDivisionError(REMOTE)

        monkeypatch.setattr(Fetched, "find", bug)
        _, by_a_bug = await ended(made, GIT_JOB, {})
        assert "ZeroDivisionError: https://<redacted>@127.0.0.1:9" in by_a_bug
    finally:
        processors[:] = before
    assert any("ZeroDivisionError" in str(line) for line in lines)
    shown = str([no_git, refused, broken, by_a_bug, lines])
    assert "s3cret" not in shown
    kept = [path for path in (made.folder / "state").rglob("*") if path.is_file()]
    assert kept
    assert not any(b"s3cret" in path.read_bytes() for path in kept)


async def test_what_a_launch_uses_is_known_to_the_next_agent(made: World) -> None:
    """From the journal, and where that is lost from what is labelled; so it is not removed while the job runs."""
    made.behave("p", Behavior(seconds=100))
    async with made.agent() as daemon:
        code = made.folder / "code"
        code.mkdir()
        (code / "requirements.txt").write_text("# nothing\n")
        daemon._context.artifacts = cast(ArtifactCache, Fetched(made.folder, CODE_JOB))
        environments = BoundedCache(made.folder / "environments", None, daemon.launches.in_use)
        daemon._context.environments = Environments(environments, {"PATH": "/usr/bin:/bin"})
        await made.in_state(await made.push(**JOB), "RUNNING", "CLAIMED", "LEASED")

        async def started() -> bool:
            return bool(daemon.launches.started("local-process"))

        await until(started, "the launch is started")
        used = daemon.launches.in_use()
        (environment,) = (path.stem for path in (made.folder / "environments").glob("*.ready"))
        assert used == {"job", "code", environment}
    async with made.agent() as daemon:
        await until(started, "the launch is adopted")
        assert daemon.launches.in_use() == used
    for file in (made.folder / "state").glob("journal.db*"):
        file.unlink()
    await made.goodbye(daemon)
    async with made.agent() as daemon:
        await until(started, "the launch is adopted")
        assert daemon.launches.in_use() == used


async def test_no_password_is_in_what_is_attached_of_an_installation(made: World, tmp_path: Path) -> None:
    """Whoever asks for requirements from git may have written a token beside them."""
    async with made.agent() as daemon:
        fetched = Fetched(made.folder, CODE_JOB)
        code = made.folder / "code"
        code.mkdir()
        remote = "git+https://me:s3cret@127.0.0.1:9/nothing"
        await asyncio.to_thread((code / "requirements.txt").write_text, f"thing @ {remote}\n")
        daemon._context.artifacts = cast(ArtifactCache, fetched)
        daemon._context.environments = Environments(
            BoundedCache(tmp_path / "environments", None, daemon.launches.in_use), {"PATH": "/usr/bin:/bin"}
        )
        item_id = await made.push(**JOB)
        item = await made.in_state(item_id, "FAILED")
    output = (await made.output(item_id)).decode()
    assert "requirements could not be installed" in item["error"]["message"]
    assert "<redacted>@" in output
    assert "s3cret" not in output + item["error"]["message"]
