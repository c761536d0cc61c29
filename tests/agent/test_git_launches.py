"""Launches of jobs from git, through a whole agent: what the job finds in its folder, and what people are told."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from agent.caches.artifacts import ArtifactCache, ArtifactVersion
from agent.resolve import JOB_FILE
from backends.base import StartRequest
from backends.fake import Behavior, FakePlatform
from tests.agent.world import World, world
from tests.git_servers import Repository, git, http_server, make_repository

NOTEBOOK = {"nbformat": 4, "cells": [{"cell_type": "code", "source": "!ls\nprint('old')\n"}]}
POLICY = {"git_http_hosts": ["127.0.0.1"]}


@dataclass
class Place:
    """A world with a repository that jobs come from."""

    world: World
    repository: Repository
    remote: str
    started: list[tuple[StartRequest, dict[str, str]]] = field(
        default_factory=list[tuple[StartRequest, dict[str, str]]]
    )
    """What was started, with the files that it found in its folder."""

    def start(self, request: StartRequest) -> Behavior:
        assert request.working_dir
        files = [path for path in request.working_dir.rglob("*") if path.is_file()]
        found = {str(path.relative_to(request.working_dir)): path.read_text() for path in files}
        self.started.append((request, found))
        return Behavior(seconds=0.05)

    async def launch(self, commit: str | None, *, patch: str = "", entry_point: str = "train.ipynb") -> dict[str, Any]:
        """Run a launch of a job made so; returns its item."""
        source = {"git": {"remote": self.remote, "commit": commit}, "entrypoint": ["python", entry_point]}
        folder = self.world.folder / "job"
        folder.mkdir(exist_ok=True)
        job = {"source_type": "repo", "source": {**source, "notebook": True}}
        (folder / JOB_FILE).write_text(json.dumps(job))
        (folder / "diff.patch").write_text(patch)
        async with self.world.agent(policy=POLICY) as daemon:
            daemon._context.artifacts = cast(ArtifactCache, _Job(folder))
            return await self.world.in_state(
                await self.world.push(job="admin/p/train:v1", overrides={}), "FAILED", "FINISHED"
            )


@dataclass
class _Job:
    folder: Path

    async def find(self, _: Any) -> ArtifactVersion:
        return ArtifactVersion("job", "")

    async def fetch(self, *_: Any) -> Path:
        return self.folder


@pytest.fixture(name="place")
async def _place(tmp_path: Path) -> AsyncIterator[Place]:
    async with world(tmp_path) as made, http_server(tmp_path / "served") as server:
        repository = make_repository(tmp_path / "served", "code")
        place = Place(made, repository, f"{server.url}/code")
        made.platform = FakePlatform(place.start)
        yield place


async def test_a_notebook_of_a_commit_with_a_patch_runs_as_a_script(place: Place) -> None:
    commit = place.repository.commit({"train.ipynb": json.dumps(NOTEBOOK), "data.txt": "1\n"})
    (place.repository.working / "train.ipynb").write_text(json.dumps(NOTEBOOK).replace("old", "new"))
    patch = git(place.repository.working, "diff", "HEAD") + "\n"
    await place.launch(commit, patch=patch)
    [(request, found)] = place.started
    assert request.command == ("python", "train.py")
    assert found["train.py"].strip() == "print('new')"
    assert found["data.txt"] == "1\n"
    assert (request.environment["WANDB_GIT_COMMIT"], request.environment["WANDB_GIT_REMOTE_URL"]) == (
        commit,
        place.remote,
    )


async def test_links_stay_links_in_the_folder_of_a_launch(place: Place) -> None:
    (place.repository.working / "nowhere").symlink_to("no-such-file")
    (place.repository.working / "again").symlink_to(".")
    git(place.repository.working, "add", "--all")
    place.repository.commit({"train.ipynb": json.dumps(NOTEBOOK)})
    await place.launch("main")
    [(request, _)] = place.started
    assert request.environment["WANDB_GIT_COMMIT"] == git(place.repository.working, "rev-parse", "HEAD")


async def test_what_goes_wrong_is_on_the_item_with_gits_words(place: Place) -> None:
    place.repository.commit({"train.py": "1"})
    item = await place.launch("no-such-branch")
    assert "has no 'no-such-branch'" in item["error"]["message"]
    item = await place.launch("1" * 40)
    assert "has no '1111" in item["error"]["message"]
    assert "not our ref" in item["error"]["message"], "git's own word, which that sentence does not have"
    output = await place.world.output(item["id"])
    assert b"not our ref" in output
