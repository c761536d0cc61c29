"""Code that is fetched where a launch runs: whole, checked, with modes that suit the job; or one clear sentence."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

import agent.fetching.fetch as fetching
from agent.errors import ControlPlaneUnavailable, LaunchFailed
from agent.fetching.fetch import MADE, SCRATCH, fetch, read_order
from agent.fetching.modes import for_all_in
from agent.fetching.source import CodeSource, GitCode, ImageContext, Version, written
from agent.policy import Refused
from tests.agent.test_artifact_cache import FakeServer
from tests.git_servers import Repository, git, http_server, make_repository

CODE = Version("QQ==", "d1")
HTTP = {"policy": {"git_http_hosts": ["127.0.0.1"]}}
NOTEBOOK = json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": "!ls\nprint(1)\n"}]})


@dataclass
class Pod:
    """A place where a launch runs: a server, a folder for the code and one for tools."""

    root: Path
    server: FakeServer
    url: str
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def folder(self) -> Path:
        return self.root / "code"

    @property
    def tools(self) -> Path:
        return self.root / "tools"

    async def fetch(
        self,
        source: CodeSource,
        folder: Path | None = None,
        *,
        tools: bool = False,
        keep_days: int | None = None,
        **variables: str,
    ) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "key",
            "LAUNCHBAY_CODE": json.dumps(written(source)),
            **variables,
        }
        tools_folder = self.tools if tools else None
        await fetch(read_order(folder or self.folder, tools_folder, environment, Random(1), keep_days=keep_days))

    def found(self, folder: Path | None = None) -> dict[str, str]:
        """Return the files that are there."""
        top = folder or self.folder
        return {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}


@pytest.fixture(name="pod")
async def _pod(tmp_path: Path) -> AsyncIterator[Pod]:
    fake = FakeServer()
    (tmp_path / "pod" / "code").mkdir(parents=True)
    (tmp_path / "pod" / "tools").mkdir()
    async with TestServer(fake.app()) as server:
        yield Pod(tmp_path / "pod", fake, str(server.make_url("")).rstrip("/"))


async def test_code_becomes_what_an_image_is_built_of(pod: Pod) -> None:
    pod.server.files = {"sub/train.py": b"1", "sub/.git/config": b"2", "Dockerfile.wandb": b"FROM another"}
    dockerfile = pod.root / "Dockerfile"
    dockerfile.write_text("FROM this")
    environment = {
        "PATH": os.environ["PATH"],
        "WANDB_BASE_URL": pod.url,
        "WANDB_API_KEY": "key",
        "LAUNCHBAY_CODE": json.dumps(written(CONTEXT)),
    }
    await fetch(read_order(pod.folder, None, environment, Random(1), dockerfile=dockerfile))
    assert sorted(str(path.relative_to(pod.folder)) for path in pod.folder.rglob("*") if path.is_file()) == [
        "Dockerfile.wandb",
        "src/train.py",
        "uv",
    ]
    assert (pod.folder / "Dockerfile.wandb").read_text() == "FROM this"
    assert os.access(pod.folder / "uv", os.X_OK)


async def test_code_that_is_too_much_for_an_image_is_told(pod: Pod) -> None:
    pod.server.files = {"sub/train.py": b"1" * 2000}
    (pod.root / "Dockerfile").write_text("FROM this")
    assert CONTEXT.image
    small = replace(CONTEXT, image=replace(CONTEXT.image, limit=1000))
    environment = {"WANDB_BASE_URL": pod.url, "WANDB_API_KEY": "key", "LAUNCHBAY_CODE": json.dumps(written(small))}
    with pytest.raises(LaunchFailed, match="code is larger than 1000"):
        await fetch(read_order(pod.folder, None, environment, Random(1), dockerfile=pod.root / "Dockerfile"))


CONTEXT = CodeSource(code=Version("QQ==", "d1"), image=ImageContext(root="sub", place="src", more=("uv",), limit=2**20))


def names(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def modes(folder: Path) -> dict[str, str]:
    """Return the modes of all that is in a folder."""
    return {str(path.relative_to(folder)): f"{stat.S_IMODE(path.lstat().st_mode):o}" for path in folder.rglob("*")}


# --- artifacts --------------------------------------------------------------------------------------------------------


async def test_a_folder_that_is_there_is_filled_and_nothing_else_is_left_in_it(pod: Pod) -> None:
    await pod.fetch(CodeSource(code=CODE))
    assert pod.found() == {"main.py": "print('hi')", "package/module.py": "x = 1"}
    assert names(pod.folder) == ["main.py", "package"]
    assert names(pod.root) == ["code", "tools"]


async def test_whoever_runs_the_job_may_write_in_a_folder_of_its_own(pod: Pod) -> None:
    """Jobs have no capabilities: the modes count even for root."""
    await pod.fetch(CodeSource(code=CODE))
    assert modes(pod.folder) == {"main.py": "666", "package": "777", "package/module.py": "666"}


async def test_nothing_is_writable_for_everybody_where_the_containers_share_a_group(pod: Pod) -> None:
    """So it is with `fsGroup`."""
    pod.folder.chmod(0o2777)
    await pod.fetch(CodeSource(code=CODE))
    assert modes(pod.folder) == {"main.py": "664", "package": "2775", "package/module.py": "664"}
    assert (pod.folder / "package").stat().st_gid == pod.folder.stat().st_gid


def test_a_group_that_is_not_ours_is_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o2777)
    monkeypatch.setattr(os, "getgroups", list)
    monkeypatch.setattr(os, "getegid", lambda: tmp_path.stat().st_gid + 1)
    assert for_all_in(tmp_path) == 0o066


async def test_another_folder_is_made_at_once_and_is_only_for_reading(pod: Pod) -> None:
    folder = pod.root / "content"
    await pod.fetch(CodeSource(code=CODE), folder)
    assert pod.found(folder) == {"main.py": "print('hi')", "package/module.py": "x = 1"}
    assert modes(folder) == {"main.py": "644", "package": "755", "package/module.py": "644"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


async def test_code_that_other_launches_run_is_not_touched_again(pod: Pod) -> None:
    folder = pod.root / "content"
    await pod.fetch(CodeSource(code=CODE), folder)
    made = folder.with_name(f".content{MADE}")
    os.utime(made, (1, 1))
    (folder / "main.py").write_text("somebody imports this now")
    before, pod.server.downloads = [path.stat() for path in (folder, folder / "main.py")], []
    await pod.fetch(CodeSource(code=CODE), folder)
    assert [path.stat() for path in (folder, folder / "main.py")] == before, "it may be another account's"
    assert stat.S_IMODE(made.stat().st_mode) == 0o666
    assert pod.server.downloads == []
    assert made.stat().st_mtime > 1, "which tells when it was last used"


async def test_of_two_that_make_a_folder_at_once_both_have_it(pod: Pod) -> None:
    folder = pod.root / "content"
    await asyncio.gather(*(pod.fetch(CodeSource(code=CODE), folder) for _ in range(3)))
    assert pod.found(folder) == {"main.py": "print('hi')", "package/module.py": "x = 1"}
    assert names(pod.root) == [f".content{MADE}", "code", "content", "tools"]


async def test_code_that_no_launch_has_begun_with_for_long_goes_and_nothing_else_does(pod: Pod) -> None:
    code = CodeSource(code=CODE)
    for name in ("old", "new", "own"):
        await pod.fetch(code, pod.root / name)
    (pod.root / "of others").mkdir()
    for name in ("old", "own"):
        os.utime(pod.root / f".{name}{MADE}", (1, 1))
    await pod.fetch(code, pod.root / "own")
    assert "old" in names(pod.root), "nobody has said how long it is to stay"
    os.utime(pod.root / f".own{MADE}", (1, 1))
    await pod.fetch(code, pod.root / "own", keep_days=3)
    assert names(pod.root) == [f".new{MADE}", f".own{MADE}", "code", "new", "of others", "own", "tools"]
    await pod.fetch(code, pod.root / "old", keep_days=3)
    assert "main.py" in pod.found(pod.root / "old"), "it can be made again"


async def test_code_that_a_launch_begins_with_while_it_is_removed_stays(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, old = CodeSource(code=CODE), pod.root / "old"
    await pod.fetch(code, old)
    os.utime(pod.root / f".old{MADE}", (1, 1))
    real, used = fetching._is_older, list[bool]()

    def looked(mark: Path, since: float) -> bool:
        if not old.exists():  # it is aside already
            used.append(fetching._use(old))
            fetching._mark(old)  # as if just before
        return real(mark, since)

    monkeypatch.setattr(fetching, "_is_older", looked)
    await pod.fetch(code, pod.root / "own", keep_days=3)
    assert used == [False], "who begins then fetches it anew"
    assert "main.py" in pod.found(old)
    assert [name for name in names(pod.root) if name.startswith(SCRATCH)] == []


@pytest.mark.parametrize("name", ["code", "content"])
async def test_a_download_that_is_not_what_was_announced_leaves_nothing(pod: Pod, name: str) -> None:
    pod.server.damaged = "main.py"
    with pytest.raises(LaunchFailed, match="arrived damaged"):
        await pod.fetch(CodeSource(code=CODE), pod.root / name)
    assert pod.found() == {}
    assert names(pod.root) == ["code", "tools"]
    pod.server.damaged = ""
    await pod.fetch(CodeSource(code=CODE), pod.root / name)
    assert "main.py" in pod.found(pod.root / name)


async def test_a_container_that_is_started_again_begins_anew(pod: Pod) -> None:
    await pod.fetch(CodeSource(code=CODE))
    (pod.folder / "main.py").write_text("half a fi")
    (pod.folder / "package" / "old.py").write_text("")
    (pod.folder / f"{SCRATCH}abc").mkdir()
    await pod.fetch(CodeSource(code=CODE))
    assert pod.found() == {"main.py": "print('hi')", "package/module.py": "x = 1"}
    assert names(pod.folder) == ["main.py", "package"]


async def test_what_others_are_making_beside_is_left_to_them_for_a_day(pod: Pod) -> None:
    for name, age in ((f"{SCRATCH}new", 0), (f"{SCRATCH}old", fetching.LEFT_SECONDS + 60)):
        (pod.root / name).mkdir()
        then = pod.root.stat().st_mtime - age
        os.utime(pod.root / name, (then, then))
    await pod.fetch(CodeSource(code=CODE), pod.root / "content")
    assert [name for name in names(pod.root) if name.startswith(SCRATCH)] == [f"{SCRATCH}new"]


async def test_paths_that_lead_out_are_refused(pod: Pod) -> None:
    pod.server.entries = {"../evil.py": {"digest": "x", "size": 1}}
    with pytest.raises(LaunchFailed, match="outside of its folder"):
        await pod.fetch(CodeSource(code=CODE))
    assert names(pod.root) == ["code", "tools"]


async def test_the_agents_limits_hold_there_too(pod: Pod) -> None:
    with pytest.raises(LaunchFailed, match=r"limits\.file of the agent"):
        await pod.fetch(CodeSource(code=CODE, config={"limits": {"file": "4"}}))


@pytest.mark.parametrize(
    ("artifact", "said"),
    [
        (None, "There is no artifact"),
        ({"id": "QQ==", "digest": "d1", "state": "DELETED"}, "was deleted"),
        ({"id": "QQ==", "digest": "d2", "state": "COMMITTED"}, "is not what it was"),
    ],
)
async def test_an_artifact_that_is_gone_or_another_is_told(pod: Pod, artifact: Any, said: str) -> None:
    pod.server.artifact = artifact
    with pytest.raises(LaunchFailed, match=said):
        await pod.fetch(CodeSource(code=CODE))


async def test_a_notebook_becomes_a_script(pod: Pod) -> None:
    pod.server.files = {"sub/train.ipynb": NOTEBOOK.encode()}
    await pod.fetch(CodeSource(code=CODE, notebook="sub/train.ipynb"))
    assert pod.found()["sub/train.py"].strip() == "print(1)"
    assert modes(pod.folder)["sub/train.py"] == "666"


async def test_where_a_launch_begins_must_be_there(pod: Pod) -> None:
    await pod.fetch(CodeSource(code=CODE, subfolder="package"))
    with pytest.raises(LaunchFailed, match="has no such folder"):
        await pod.fetch(CodeSource(code=CODE, subfolder="elsewhere"))


async def test_a_server_that_stays_away_is_told_after_a_while(pod: Pod) -> None:
    """The address may mean this container itself, and then there is little to wait for."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 4.0
        return now

    for url, calls in (("http://127.0.0.1:1", 3), ("http://server.test:1", 75)):
        patience = fetching._Patience(url, clock)
        for _ in range(calls):
            patience()
        with pytest.raises(ControlPlaneUnavailable, match=r"can set `job_base_url`"):
            patience()


async def test_trouble_that_passes_is_forgotten() -> None:
    times = iter(float(second) for second in range(0, 10_000, 100))
    patience = fetching._Patience("http://server.test", lambda: next(times))
    for _ in range(50):
        patience()


# --- git --------------------------------------------------------------------------------------------------------------


@pytest.fixture(name="repository")
async def _repository(tmp_path: Path) -> AsyncIterator[tuple[Repository, str]]:
    async with http_server(tmp_path / "served") as server:
        server.password = "a-token-that-nobody-may-see"
        yield make_repository(tmp_path / "served", "code"), f"{server.url}/code"


TOKEN = {"git": {"hosts": {"127.0.0.1": {"user": "git", "token_env": "LAUNCHBAY_GIT_TOKEN_0"}}}, **HTTP}


async def test_a_commit_is_fetched_with_the_token_that_was_handed_over(
    pod: Pod, repository: tuple[Repository, str]
) -> None:
    made, remote = repository
    (made.working / "run.sh").write_text("#!/bin/sh\n")
    (made.working / "run.sh").chmod(0o755)
    (made.working / "again").symlink_to("train.py")
    git(made.working, "add", "--all")
    commit = made.commit({"train.py": "1", "package/x.py": "2"})
    source = CodeSource(code=GitCode(remote, commit), config=TOKEN)
    await pod.fetch(source, LAUNCHBAY_GIT_TOKEN_0="a-token-that-nobody-may-see")
    assert pod.found() == {"train.py": "1", "again": "1", "package/x.py": "2", "run.sh": "#!/bin/sh\n"}
    found = modes(pod.folder)
    assert (found["run.sh"], found["train.py"], found["package"]) == ("777", "666", "777")
    assert (pod.folder / "again").is_symlink()


async def test_a_wrong_token_is_told_and_not_shown(pod: Pod, repository: tuple[Repository, str]) -> None:
    made, remote = repository
    source = CodeSource(code=GitCode(remote, made.commit({"train.py": "1"})), config=TOKEN)
    with pytest.raises(LaunchFailed, match="does not accept what the agent has for it") as failed:
        await pod.fetch(source, LAUNCHBAY_GIT_TOKEN_0="wrong-token-wrong-token")
    assert "wrong-token" not in str(failed.value)
    assert list(pod.folder.iterdir()) == []


async def test_a_password_in_the_remote_comes_by_a_variable(pod: Pod, repository: tuple[Repository, str]) -> None:
    made, remote = repository
    source = CodeSource(code=GitCode(remote, made.commit({"train.py": "1"})), config=HTTP)
    whole = remote.replace("http://", "http://git:a-token-that-nobody-may-see@")
    await pod.fetch(source, LAUNCHBAY_GIT_REMOTE=whole)
    assert pod.found() == {"train.py": "1"}


async def test_the_jobs_patch_is_applied(pod: Pod, repository: tuple[Repository, str]) -> None:
    made, remote = repository
    commit = made.commit({"train.py": "old\n"})
    (made.working / "train.py").write_text("new\n")
    pod.server.files = {"diff.patch": (git(made.working, "diff", "HEAD") + "\n").encode()}
    source = CodeSource(code=GitCode(remote, commit), job=CODE, config=TOKEN)
    await pod.fetch(source, LAUNCHBAY_GIT_TOKEN_0="a-token-that-nobody-may-see")
    assert pod.found() == {"train.py": "new\n"}


async def test_the_agents_policy_holds_there_too(pod: Pod, repository: tuple[Repository, str]) -> None:
    """Submodules have remotes that the agent has not seen."""
    _, remote = repository
    with pytest.raises(Refused, match="git_http_hosts"):
        await pod.fetch(CodeSource(code=GitCode(remote, "1" * 40)))


async def test_a_job_from_git_begins_in_its_build_context(pod: Pod, repository: tuple[Repository, str]) -> None:
    """Which only the commit tells: a job that has its program at the top alone begins there."""
    made, remote = repository
    commit = made.commit({"sub/train.ipynb": NOTEBOOK, "old.py": "1"})
    for program, begins_in in (("old.py", []), ("train.ipynb", ["sub"])):
        source = CodeSource(code=GitCode(remote, commit), build_context="sub", program=program, config=TOKEN)
        if begins_in:
            source = replace(source, notebook=program)
        await pod.fetch(source, tools=True, LAUNCHBAY_GIT_TOKEN_0="a-token-that-nobody-may-see")
        told = pod.tools / "begins_in"
        assert (told.read_text().split() if told.exists() else []) == begins_in
    assert pod.found()["sub/train.py"].strip() == "print(1)"


# --- what is handed to the installer ----------------------------------------------------------------------------------


def wanted(pod: Pod) -> dict[str, Any]:
    """Return what is to be installed."""
    return json.loads((pod.tools / "install.json").read_text())


async def test_requirements_are_laid_out_with_all_that_they_include(pod: Pod) -> None:
    pod.server.files = {
        "sub/requirements.txt": b"-r ../more/base.txt\n",
        "more/base.txt": b"a==1\n",
        "uv.toml": b"",
        "main.py": b"",
    }
    await pod.fetch(CodeSource(code=CODE, build_context="sub"), tools=True)
    assert wanted(pod) == {"file": "code/sub/requirements.txt", "is_frozen": False}
    assert pod.found(pod.tools / "code") == {
        "sub/requirements.txt": "-r ../more/base.txt\n",
        "more/base.txt": "a==1\n",
        "uv.toml": "",
    }
    for program in ("bin/install", "bin/run", "uv"):
        assert modes(pod.tools)[program] == "755"


async def test_requirements_that_name_the_code_have_a_copy_of_it_to_build_in(pod: Pod) -> None:
    pod.server.files = {"requirements.txt": b".\n", "pyproject.toml": b"[project]\n", "a/b.py": b"1"}
    await pod.fetch(CodeSource(code=CODE), tools=True)
    assert pod.found(pod.tools / "code") == pod.found()
    assert modes(pod.tools / "code")["a"] == "777"


async def test_without_requirements_there_is_nothing_to_install(pod: Pod) -> None:
    await pod.fetch(CodeSource(code=CODE), tools=True)
    assert names(pod.tools) == ["bin"]


async def test_what_was_frozen_is_of_the_job(pod: Pod, repository: tuple[Repository, str]) -> None:
    made, remote = repository
    pod.server.files = {"requirements.frozen.txt": b"a==1\n"}
    source = CodeSource(code=GitCode(remote, made.commit({"train.py": "1"})), job=CODE, config=TOKEN)
    await pod.fetch(source, tools=True, LAUNCHBAY_GIT_TOKEN_0="a-token-that-nobody-may-see")
    assert wanted(pod) == {"file": "code/requirements.frozen.txt", "is_frozen": True}


async def test_requirements_that_reach_out_of_the_code_are_refused(pod: Pod) -> None:
    pod.server.files = {"requirements.txt": b"-r ../../../etc/passwd\n"}
    with pytest.raises(LaunchFailed, match="which is no file of the job's code"):
        await pod.fetch(CodeSource(code=CODE), tools=True)


async def test_requirements_obey_the_agents_policy_there_too(pod: Pod) -> None:
    pod.server.files = {"requirements.txt": b"a @ https://evil.test/a.whl\n"}
    with pytest.raises(Refused, match="git_hosts"):
        await pod.fetch(CodeSource(code=CODE, config={"policy": {"git_hosts": ["good.test"]}}), tools=True)


async def test_packages_without_code(pod: Pod) -> None:
    await pod.fetch(CodeSource(packages="wandb[launch]\n"), tools=True)
    assert pod.found() == {}
    assert wanted(pod) == {"file": "code/requirements.txt", "is_frozen": False}


# --- the order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [{}, {"LAUNCHBAY_CODE": "{"}], ids=["nothing", "no JSON"])
def test_an_order_that_cannot_be_understood_is_told(tmp_path: Path, environment: Mapping[str, str]) -> None:
    with pytest.raises(LaunchFailed, match="LAUNCHBAY_CODE"):
        read_order(tmp_path, None, environment, Random(1))
