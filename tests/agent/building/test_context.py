"""What an image is built of: which Dockerfile, which files, and what never gets in."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.building.context import choose
from agent.building.dockerfile import images_of
from agent.building.recipe import DOCKERFILE, Recipe, fill
from agent.errors import LaunchFailed
from agent.resolve import Resolved
from protocol.errors import LaunchbayError
from protocol.job_file import parse_job_file
from protocol.launch_spec import parse_launch_spec

LIMIT = 2**20
PROJECT = "[project]\ndependencies = ['numpy']\n"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A job's code."""
    folder = tmp_path / "code"
    (folder / "sub").mkdir(parents=True)
    (folder / "train.py").write_text("print('hello')")
    (folder / "sub" / "train.py").write_text("print('sub')")
    return folder


def launch(code: Path, *, overrides: Any = None, docker: Any = None, **source: Any) -> Resolved:
    """Return the ingredients of a launch of a job."""
    spec = {"entity": "e", "project": "p", "job": "e/p/j:v0", "overrides": overrides or {}, "docker": docker or {}}
    job = {
        "source_type": "artifact",
        "runtime": "3.11.7",
        "source": {"artifact": "wandb-artifact://_id/x", "entrypoint": ["python", "train.py"], **source},
    }
    return Resolved(parse_launch_spec(spec), parse_job_file(job), code.parent / "job", code)


def text_of(resolved: Resolved) -> str:
    """Return the Dockerfile that is chosen."""
    return choose(resolved, None).dockerfile


# --- which Dockerfile ------------------------------------------------------------------------------------------------


def test_the_first_that_is_there_is_used(code: Path) -> None:
    for name in ("override", "own", "sub/Dockerfile.wandb"):
        (code / name).write_text(f"FROM {name}")
    beside = {"entrypoint": ["python", "sub/train.py"]}
    assert "AS build" in text_of(launch(code))
    assert text_of(launch(code, **beside)) == "FROM sub/Dockerfile.wandb"
    assert text_of(launch(code, **beside, dockerfile="own")) == "FROM own"
    overrides = {"dockerfile": "override"}
    assert text_of(launch(code, overrides=overrides, **beside, dockerfile="own")) == "FROM override"


def test_the_folder_of_the_entry_point_becomes_the_context_with_the_command_in_it(code: Path) -> None:
    (code / "sub" / DOCKERFILE).write_text("FROM x")
    recipe = choose(launch(code, entrypoint=["python", "sub/train.py"]), None)
    assert (recipe.code, recipe.command) == (code / "sub", ("python", "train.py"))


def test_paths_of_dockerfiles_count_from_the_build_context(code: Path) -> None:
    (code / "sub" / "own").write_text("FROM own")
    recipe = choose(launch(code, build_context="sub", dockerfile="own"), None)
    assert (recipe.dockerfile, recipe.code) == ("FROM own", code / "sub")


@pytest.mark.parametrize("path", ["nowhere", "sub"])
def test_a_dockerfile_that_is_not_there_fails_the_launch(code: Path, path: str) -> None:
    with pytest.raises(LaunchFailed, match=f"Dockerfile does not exist at {path}"):
        choose(launch(code, overrides={"dockerfile": path}), None)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "sub/../../outside", "link"])
def test_a_dockerfile_from_outside_of_the_code_is_refused(code: Path, path: str) -> None:
    (code.parent / "outside").write_text("FROM secret")
    (code / "link").symlink_to("/etc/passwd")
    with pytest.raises(LaunchbayError, match=r"outside of the job's code|must be a path inside the job's code"):
        choose(launch(code, overrides={"dockerfile": path}), None)


def test_a_build_context_that_leads_outside_is_refused(code: Path) -> None:
    (code / "out").symlink_to(code.parent)
    with pytest.raises(LaunchFailed, match="lies outside of the job's code"):
        choose(launch(code, build_context="out"), None)
    with pytest.raises(LaunchFailed, match="is not a folder"):
        choose(launch(code, build_context="train.py"), None)


# --- the generated one -----------------------------------------------------------------------------------------------


def test_the_python_of_the_job_is_installed_for(code: Path) -> None:
    text = text_of(launch(code))
    assert images_of(text) == ["python:3.11-bookworm", "python:3.11-slim-bookworm"]
    assert "uv venv --python 3.11 " in text
    assert "pip install" not in text


def test_a_base_image_is_used_for_both_stages(code: Path) -> None:
    assert images_of(choose(launch(code), "registry.test/cuda:12").dockerfile) == ["registry.test/cuda:12"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"requirements.txt": "numpy", "pyproject.toml": PROJECT}, "src/requirements.txt"),
        ({"requirements.txt": " \n", "pyproject.toml": PROJECT}, "src/pyproject.toml"),
        ({"sub/requirements.txt": "a", "requirements.txt": "b"}, "src/sub/requirements.txt"),
        ({"../job/requirements.frozen.txt": "numpy==1"}, "requirements.frozen.txt"),
    ],
)
def test_requirements_are_found_in_order(code: Path, files: dict[str, str], expected: str) -> None:
    (code.parent / "job").mkdir()
    for name, content in files.items():
        (code / name).write_text(content)
    text = text_of(launch(code, build_context="sub"))
    assert f"type=bind,source={expected}," in text
    assert ("Failed to install" in text) == ("frozen" in expected)


@pytest.mark.parametrize(
    "line", ["-r more.txt", "./package", "-e .", "--find-links wheels", "x @ file:///tmp/x", "-c=constraints.txt"]
)
def test_requirements_that_name_files_are_installed_beside_them(code: Path, line: str) -> None:
    (code / "requirements.txt").write_text(f"numpy\n{line}\n")
    assert "type=bind,source=src,target=/home/launch,rw" in text_of(launch(code))


def test_the_user_is_no_root_and_may_be_chosen(code: Path) -> None:
    assert text_of(launch(code)).endswith("USER 1000:0\n")
    assert text_of(launch(code, docker={"user_id": 7})).endswith("USER 7:0\n")
    for wrong in ("0; RUN x", -1, 2**31, True, 1.5):
        with pytest.raises(LaunchFailed, match=r"docker\.user_id"):
            choose(launch(code, docker={"user_id": wrong}), None)


# --- which files -----------------------------------------------------------------------------------------------------


def filled(code: Path, limit: int = LIMIT, **recipe: Any) -> Path:
    """Return a build context of some code."""
    folder = code.parent / "context"
    fill(folder, Recipe("FROM x", code, **recipe), limit)
    return folder


def test_the_context_has_the_code_and_the_dockerfile_and_nothing_of_git(code: Path) -> None:
    (code / ".git").mkdir()
    (code / ".git" / "config").write_text("secret")
    (code / "sub" / ".git").write_text("gitdir: elsewhere")
    (code / "sub" / "link").symlink_to("../train.py")
    folder = filled(code)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == {
        *("train.py", "sub", "sub/train.py", "sub/link", DOCKERFILE)
    }
    assert (folder / DOCKERFILE).read_text() == "FROM x"
    assert (folder / "sub" / "link").is_symlink()


def test_a_dockerfile_that_is_a_link_is_not_written_through(code: Path) -> None:
    (code / DOCKERFILE).symlink_to("train.py")
    filled(code)
    assert (code / "train.py").read_text() == "print('hello')"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../job", "up/../.."])
def test_a_link_that_leads_out_of_the_code_is_refused(code: Path, target: str) -> None:
    (code / "sub" / "up").symlink_to("..")
    (code / "sub" / "out").symlink_to(target)
    with pytest.raises(LaunchFailed, match=r"a link that leads out of it: 'sub/out'"):
        filled(code)


def test_links_that_lead_in_a_circle_do_no_harm(code: Path) -> None:
    (code / "a").symlink_to("b")
    (code / "b").symlink_to("a")
    assert (filled(code) / "a").is_symlink()


def test_texts_that_are_none_are_not_read(code: Path) -> None:
    for name in ("requirements.txt", DOCKERFILE):
        with (code / name).open("wb") as file:
            file.truncate(10 * 2**30)
        with pytest.raises(LaunchFailed, match=f"{name} .*is larger than 1 MiB|{name} is larger than 1 MiB"):
            choose(launch(code), None)


def test_what_is_no_file_is_refused(code: Path) -> None:
    os.mkfifo(code / "pipe")
    with pytest.raises(LaunchFailed, match="'pipe', which is neither"):
        filled(code)


def test_code_beyond_the_limit_is_refused_before_it_is_copied(code: Path) -> None:
    with (code / "data").open("wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(LaunchFailed, match="larger than 1 MiB") as error:
        filled(code)
    assert error.value.stage == "build"
    assert not (code.parent / "context" / "data").exists()


def test_a_full_disk_is_said_once_and_is_not_the_jobs_fault(code: Path, small_disk: Path) -> None:
    for number in range(50):
        (code / f"file-{number}").write_bytes(b"x" * 10_000)
    with pytest.raises(OSError, match="No space left on device") as error:
        fill(small_disk / "context", Recipe("FROM x", code), LIMIT)
    assert str(error.value).count("No space left") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system is for root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


# --- the images of a Dockerfile --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "images"),
    [
        pytest.param("FROM a\n", ["a"], id="plain"),
        pytest.param("\ufefffrom\ta:1 AS x\nFROM x\n", ["a:1"], id="a stage, a byte order mark, a tab"),
        pytest.param("FROM --platform=$P \\\n# why\n  a@sha256:1\n", ["a@sha256:1"], id="continued, with a comment"),
        pytest.param("FROM python\nFROM scratch AS python\nFROM python", ["python"], id="a stage named after an image"),
        pytest.param("FROM a\nCOPY --from=evil/x / /\nCOPY --from=0 / /", ["a", "evil/x"], id="copied from"),
        pytest.param("FROM a\nRUN --mount=type=bind,from=evil,target=/x true", ["a", "evil"], id="mounted from"),
        pytest.param("# syntax=evil/frontend:1\nFROM a", ["evil/frontend:1", "a"], id="a frontend"),
        pytest.param("// syntax=evil\nFROM a", ["evil", "a"], id="a frontend, the other way"),
        pytest.param('{"syntax": "evil"}', ["evil"], id="a frontend, in JSON"),
        pytest.param("FROM a\r\nCOPY --from=b\r\n", ["a", "b"], id="lines of another system"),
    ],
)
def test_images_of_a_dockerfile(text: str, images: list[str]) -> None:
    assert images_of(text) == images


@pytest.mark.parametrize(
    "text", ["ARG X=a\nFROM $X", "FROM ${X:-a}", "# escape=`\nFROM a", 'FROM a\nRUN --mount="from=b" c', "FROM `a`"]
)
def test_a_dockerfile_whose_images_cannot_be_told_is_refused_where_images_are_limited(text: str) -> None:
    with pytest.raises(LaunchFailed, match="Where images are limited"):
        images_of(text)


@pytest.mark.parametrize("with_dockerfile", [False, True], ids=["generated", "beside"])
def test_a_notebook_becomes_a_script(code: Path, tmp_path: Path, with_dockerfile: bool) -> None:
    (code / "sub" / "a.ipynb").write_text('{"cells": [{"cell_type": "code", "source": ["!ls\\n", "print(1)"]}]}')
    if with_dockerfile:
        (code / "sub" / "Dockerfile.wandb").write_text("FROM x")
    entry_point = ["python", "sub/a.ipynb"]
    recipe = choose(launch(code, entrypoint=entry_point, notebook=True), None)
    fill(tmp_path / "context", recipe, LIMIT)
    scripts = list((tmp_path / "context").rglob("a.py"))
    assert [path.read_text() for path in scripts] == ["print(1)\n"]
    assert not (code / "sub" / "a.py").exists(), "the cache is as it was"
    assert choose(launch(code, entrypoint=["jupyter", "sub/a.ipynb"]), None).notebook is None
    if not with_dockerfile:
        inside = launch(code, entrypoint=["python", "a.ipynb"], build_context="sub")
        assert choose(inside, None).notebook == "sub/a.ipynb", "also where the job does not say that it is one"


def test_commands_run_in_the_build_context(code: Path) -> None:
    (code / "sub" / "train.py").write_text("")
    assert "\nWORKDIR /home/launch/sub\n" in text_of(launch(code, build_context="sub"))
    from_the_top = launch(code, build_context="sub", entrypoint=["python", "sub/train.py"])
    assert "\nWORKDIR /home/launch\n" in text_of(from_the_top), "as agents before this one had it"
    (code / "a\nRUN x").mkdir()
    with pytest.raises(LaunchFailed, match="cannot be named in a Dockerfile"):
        text_of(launch(code, build_context="a\nRUN x", entrypoint=["python", "-m", "x"]))
