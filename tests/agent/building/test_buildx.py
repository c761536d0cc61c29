"""Builds with the real plugin, a real engine and a real registry."""

import asyncio
import io
import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.building.buildx import Build, Buildx, find_buildx
from agent.building.context import choose
from agent.building.credentials import Credential, logged_in
from agent.building.recipe import DOCKERFILE, fill
from agent.errors import LaunchFailed
from agent.launch import Cause
from tests.agent.building import parts
from tests.agent.building.conftest import run_in
from tests.agent.building.test_context import LIMIT, launch

SECRET = "a-secret-of-the-agent-that-no-step-may-see"


def buildx(environment: dict[str, str]) -> Buildx:
    """Return the plugin, run with the agent's key in the environment."""
    return Buildx(find_buildx(dict(os.environ)), {**environment, "WANDB_API_KEY": SECRET})


def wanted(folder: Path, image: str, dockerfile: str, push_to: str | None = None) -> Build:
    """Return a build of a Dockerfile."""
    context = folder / "context"
    context.mkdir()
    (context / DOCKERFILE).write_text(dockerfile)
    return Build(context, folder / "metadata.json", image, push_to)


async def test_the_generated_image_runs_the_code_with_its_requirements_as_a_plain_user(
    engine: parts.Engine, python_image: str, tmp_path: Path
) -> None:
    code, context = tmp_path / "code", tmp_path / "context"
    (code / "wheels").mkdir(parents=True)
    (code / "wheels" / "thing-1.0-py3-none-any.whl").write_bytes(wheel())
    (code / "requirements.txt").write_text("--no-index\n--find-links wheels\nthing\n")
    (code / "train.py").write_text("import os, thing; open('out', 'w'); print(thing.VALUE, os.getuid(), os.getcwd())")
    recipe = choose(launch(code), python_image)
    await asyncio.to_thread(fill, context, recipe, LIMIT)
    output = bytearray()
    built = Build(context, tmp_path / "metadata.json", "launchbay/thing:1")
    assert await buildx(engine.environment).build(built, output.extend) is None
    assert b"thing==1.0" in output
    assert await run_in(engine, built.image, "python", "train.py") == "42 1000 /home/launch\n"
    assert await run_in(engine, built.image, "sh", "-c", "ls /usr/local/bin; cat /etc/passwd") == (
        f"python{recipe.dockerfile.partition('--python ')[2][:4]}\n"
        "root:x:0:0:root:/root:/bin/sh\nlaunch:x:1000:0:launch:/home/launch:/bin/sh\n"
    )


async def test_what_was_frozen_elsewhere_is_installed_as_far_as_it_can_be(
    engine: parts.Engine, python_image: str, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "requirements.frozen.txt").write_text("not@a@requirement\n-e /nowhere")
    await asyncio.to_thread(fill, tmp_path / "context", choose(launch(tmp_path / "code"), python_image), LIMIT)
    output = bytearray()
    built = Build(tmp_path / "context", tmp_path / "metadata.json", "launchbay/frozen:1")
    await buildx(engine.environment).build(built, output.extend)
    for line in ("not@a@requirement", "-e /nowhere"):
        assert f"ERROR: Failed to install: {line}. During automated build process." in output.decode()


async def test_a_failing_step_is_quoted_and_the_job_is_at_fault(engine: parts.Engine, tmp_path: Path) -> None:
    dockerfile = f"FROM {parts.SHELL}\nRUN true\nRUN env && echo out of coffee && exit 7\n"
    output = bytearray()
    with pytest.raises(LaunchFailed) as error:
        await buildx(engine.environment).build(wanted(tmp_path, "x:1", dockerfile), output.extend)
    assert "failed at step '[3/3] RUN env && echo out of coffee && exit 7'" in str(error.value)
    assert "coffee && exit 7': exit code: 7. Correct the Dockerfile" in str(error.value)
    assert (error.value.stage, error.value.cause) == ("build", Cause.WORKLOAD)
    assert b"out of coffee" in output
    assert SECRET.encode() not in output


@pytest.mark.parametrize(
    ("dockerfile", "words", "cause"),
    [
        ("FRM x", "unknown instruction", Cause.WORKLOAD),
        (f"FROM {parts.SHELL}\nCOPY nothing /", "nothing", Cause.WORKLOAD),
        (
            "FROM 127.0.0.1:9/x",
            r"failed at step '\[internal\] load metadata.*: failed to do request: .*connection refused",
            Cause.INFRASTRUCTURE,
        ),
    ],
)
async def test_other_failures_say_why(
    engine: parts.Engine, tmp_path: Path, dockerfile: str, words: str, cause: Cause
) -> None:
    with pytest.raises(LaunchFailed, match=words) as error:
        await buildx(engine.environment).build(wanted(tmp_path, "x:1", dockerfile), lambda _: None)
    assert error.value.cause is cause


async def test_a_step_that_reaches_nobody_is_not_the_jobs_fault(
    engine: parts.Engine, python_image: str, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "requirements.txt").write_text("--index-url http://127.0.0.1:9/simple\nthing\n")
    recipe = choose(launch(tmp_path / "code"), python_image)
    # Engines may lose what a step says right before its end.
    lasts = "--requirements requirements.txt || /opt/launchbay/env/bin/python -c 'import time; time.sleep(1); exit(2)'"
    dockerfile = recipe.dockerfile.replace("uv pip install", "UV_HTTP_RETRIES=0 uv pip install")
    recipe = replace(recipe, dockerfile=dockerfile.replace("--requirements requirements.txt", lasts))
    assert lasts in recipe.dockerfile
    await asyncio.to_thread(fill, tmp_path / "context", recipe, LIMIT)
    built = Build(tmp_path / "context", tmp_path / "metadata.json", "launchbay/thing:2")
    with pytest.raises(LaunchFailed, match=r"exit code: \d+ \(.*127\.0\.0\.1:9.*\)\. See that steps") as error:
        await buildx(engine.environment).build(built, lambda said: print(said.decode()))
    assert error.value.cause is Cause.INFRASTRUCTURE


async def test_an_engine_that_is_away_is_not_the_jobs_fault(engine: parts.Engine, tmp_path: Path) -> None:
    away = {**engine.environment, "DOCKER_HOST": f"unix://{tmp_path}/nowhere"}
    with pytest.raises(LaunchFailed, match="nowhere") as error:
        await buildx(away).build(wanted(tmp_path, "x:1", f"FROM {parts.SHELL}"), lambda _: None)
    assert error.value.cause is Cause.INFRASTRUCTURE


@pytest.mark.skipif(shutil.which("buildkitd") is None, reason="not installed: buildkitd")
async def test_a_builder_that_dies_in_the_middle_is_not_the_jobs_fault(engine: parts.Engine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, parts.buildkit("mortal", engine.environment) as process:
        # A registry that takes calls and never answers.
        build = wanted(tmp_path, "x:1", f"FROM 127.0.0.1:{silent.getsockname()[1]}/x:1\n")
        heard = bytearray()

        def kill_in_the_middle(data: bytes) -> None:
            heard.extend(data)
            if b"load metadata" in heard:
                process.kill()

        program = Buildx(find_buildx(engine.environment), engine.environment, "mortal")
        with pytest.raises(LaunchFailed, match="See that builds work on the agent's machine") as error:
            await program.build(build, kill_in_the_middle)
    assert error.value.cause is Cause.INFRASTRUCTURE


async def test_a_build_that_is_stopped_leaves_nothing_running(engine: parts.Engine, tmp_path: Path) -> None:
    seconds = str(86_000 + os.getpid() % 1000)
    dockerfile = f"FROM {parts.SHELL}\nRUN sleep {seconds}\n"
    building = asyncio.create_task(
        buildx(engine.environment).build(wanted(tmp_path, "x:1", dockerfile), lambda _: None)
    )
    await _until(lambda: "sleep" in _commands(seconds), "the step runs")
    building.cancel()
    await asyncio.wait([building])
    await _until(lambda: not _commands(seconds) and not _commands(str(tmp_path)), "nothing runs any more")


async def test_what_the_plugin_is_asked_and_what_it_says_is_kept_apart(tmp_path: Path) -> None:
    """The engine of the tests cannot keep steps in a registry; a plugin that writes down its words can be asked to."""
    program = tmp_path / "docker-buildx"
    program.write_text(f"""#!/bin/sh
printf '%s\\n' "$@" > {tmp_path}/words
printf -- '------\\n > [2/3] RUN false:\\n------\\n > importing cache manifest from r/x:buildcache:\\n------\\n'
printf 'ERROR: failed to build: failed to solve: exit code: 1\\n'
exit 1
""")
    program.chmod(0o755)
    (tmp_path / "context").mkdir()
    build = Build(tmp_path / "context", tmp_path / "m.json", "r/x:1", "r/x", "linux/arm64", keeps_cache=True)
    with pytest.raises(LaunchFailed, match=r"failed at step '\[2/3\] RUN false': exit code: 1\."):
        await Buildx(program, {"PATH": os.environ["PATH"]}, "farm").build(build, lambda _: None)
    words = (tmp_path / "words").read_text().splitlines()
    assert words[0] == "build"
    assert {"--push", "--platform=linux/arm64", "--provenance=false", "--sbom=false"} <= {*words}
    assert "--cache-from=type=registry,ref=r/x:buildcache" in words
    assert any(word.startswith("--cache-to=type=registry,ref=r/x:buildcache,mode=max") for word in words)
    assert words[words.index("--builder") + 1] == "farm"


# --- registries ------------------------------------------------------------------------------------------------------


async def test_an_image_is_pushed_and_found_by_its_digest(engine: parts.Engine, registry: str, tmp_path: Path) -> None:
    repository = f"{registry}/team/jobs"
    build = wanted(tmp_path, f"{repository}:1", f"FROM scratch\nCOPY {DOCKERFILE} /", repository)
    program = buildx(engine.environment)
    assert await program.pushed_digest(build.image) is None
    digest = await program.build(build, lambda _: None)
    assert digest
    assert await program.pushed_digest(build.image) == digest
    assert await run_in_registry(engine, f"{repository}@{digest}")


async def test_a_private_registry_is_asked_with_the_login(
    engine: parts.Engine, private_registry: str, tmp_path: Path
) -> None:
    repository = f"{private_registry}/jobs"
    build = wanted(tmp_path, f"{repository}:1", f"FROM scratch\nCOPY {DOCKERFILE} /", repository)
    with pytest.raises(LaunchFailed, match="does not let this agent look") as error:
        await buildx(engine.environment).pushed_digest(build.image)
    assert error.value.cause is Cause.INFRASTRUCTURE
    with logged_in(repository, Credential(parts.USER, parts.PASSWORD), engine.environment) as inside:
        program = buildx(dict(inside))
        assert await program.pushed_digest(build.image) is None
        digest = await program.build(build, lambda _: None)
        assert await program.pushed_digest(build.image) == digest
    with pytest.raises(LaunchFailed) as error:
        await buildx(engine.environment).build(build, lambda _: None)
    assert error.value.cause is Cause.INFRASTRUCTURE


async def test_a_registry_that_is_away_is_said_to_be(engine: parts.Engine) -> None:
    with pytest.raises(LaunchFailed, match=r"127\.0\.0\.1:9/jobs:1.*connection refused"):
        await buildx(engine.environment).pushed_digest("127.0.0.1:9/jobs:1")


def test_a_machine_without_the_plugin_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.building.buildx.PLUGIN_FOLDERS", ())
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    with pytest.raises(LaunchFailed, match="docker-buildx is not installed"):
        find_buildx(environment)
    own = tmp_path / ".docker" / "cli-plugins" / "docker-buildx"
    own.parent.mkdir(parents=True)
    own.touch(0o755)
    assert find_buildx(environment) == own


# --- helpers ---------------------------------------------------------------------------------------------------------


def wheel() -> bytes:
    """Return a package."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr("thing.py", "VALUE = 42")
        info = "thing-1.0.dist-info/"
        archive.writestr(f"{info}METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr(f"{info}WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}RECORD", "")
    return output.getvalue()


async def run_in_registry(engine: parts.Engine, image: str) -> bool:
    """Whether the engine can pull an image."""

    def pull() -> bool:
        client = engine.client()
        try:
            return bool(client.images.pull(image).id)
        finally:
            client.close()

    return await asyncio.to_thread(pull)


def _commands(word: str) -> str:
    """Return the command lines of programs that have a word in them."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in command and path.parent.name != str(os.getpid()):
            found.append(command)
    return "\n".join(found)


async def _until(check: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(120):
        while not check():  # noqa: ASYNC110 -- what is awaited happens in another program
            await asyncio.sleep(0.05)
    assert check(), what
