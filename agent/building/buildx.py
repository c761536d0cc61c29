"""Runs `docker buildx`: builds with its output as it comes, and looks for images in registries.

The plugin is run by itself, without the `docker` program around it: one process, so that killing its group ends the
build. BuildKit drops a build whose client is gone.
"""

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.building.credentials import config_folder
from agent.building.failures import SHOWN_CHARS, build_failed, last_error
from agent.building.recipe import DOCKERFILE
from agent.errors import LaunchFailed
from agent.launch import Cause

PLUGIN = "docker-buildx"
PLUGIN_FOLDERS = tuple(
    Path(root, "docker", "cli-plugins") for root in ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
)
"""Where docker looks for its plugins, after the user's own folder."""
CACHE_TAG = "buildcache"
READ_BYTES = 64 * 1024
LOOK_SECONDS = 60.0
_FIELD = re.compile(r"^(Name|Driver|Status|Error):[ \t]+(.+?)\s*$", re.MULTILINE)
_NOT_LET_IN = re.compile(r"\b40[13]\b|unauthorized|denied|forbidden|no basic auth", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Build:
    """One build to be made."""

    context: Path
    """The folder whose files the build sees, its Dockerfile among them."""
    metadata: Path
    """The file in which the plugin says what came of it."""
    image: str
    """What it is to be called, with its tag."""
    push_to: str | None = None
    """The repository, if it is to be pushed there; otherwise it goes into the local engine."""
    platform: str | None = None
    keeps_cache: bool = False
    """Whether the steps are kept in the repository as well."""


@dataclass(frozen=True, slots=True)
class BuilderFacts:
    """What the plugin says of a builder."""

    name: str
    driver: str
    """`docker` is the engine's own, `remote` one that somebody else runs; the plugin starts the others when needed."""
    status: str
    """Of its first node, as `running`; empty if nobody knows."""
    error: str
    """Why nobody knows."""


class Buildx:
    """The plugin, for one agent. `environment` is what it runs with; the agent's API key is taken out of it."""

    def __init__(self, program: Path, environment: Mapping[str, str], instance: str | None = None) -> None:
        self._program = program
        # Nothing here describes a working copy around the state folder.
        self._environment = {**_without_keys(environment), "BUILDX_GIT_INFO": "false", "NO_COLOR": "1"}
        self._instance = ("--builder", instance) if instance else ()

    async def build(self, wanted: Build, on_output: Callable[[bytes], None]) -> str | None:
        """Build an image, and return the digest under which it was pushed; None if it was not.

        Raises `LaunchFailed` with the failing step.
        """
        tail = bytearray()

        def heard(data: bytes) -> None:
            on_output(data)
            tail.extend(data)
            del tail[:-READ_BYTES]

        code = await self._run([*_arguments(wanted), *self._instance, str(wanted.context)], wanted.context, heard)
        if code != 0:
            said = tail.decode(errors="replace")
            raise build_failed(wanted.image, said, f"{PLUGIN} ended with code {code}", "on the agent's machine")
        if wanted.push_to is None:
            return None
        digest = json.loads(await asyncio.to_thread(wanted.metadata.read_text)).get("containerimage.digest")
        return str(digest) if digest else None

    async def pushed_digest(self, image: str) -> str | None:
        """Return the digest of an image in its registry; None if it is not there. `LaunchFailed` if nobody can say."""
        output = bytearray()
        words = ("imagetools", "inspect", *self._instance, "--format", "{{.Manifest.Digest}}", image)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                code = await self._run(words, Path("/"), output.extend)
        except TimeoutError:
            code = -1
            output.extend(f"\nERROR: no answer within {LOOK_SECONDS:g} seconds".encode())
        text = output.decode(errors="replace").strip()
        if code == 0 and (found := re.search(r"sha256:[0-9a-f]{64}", text)):
            return found[0]
        why = last_error(text) or f"{PLUGIN} ended with code {code}"
        if code > 0 and re.search(r"not found|manifest unknown|name unknown|does not exist", why, re.IGNORECASE):
            return None
        what, todo = (
            (
                "does not let this agent look for",
                "Log in there with `docker login` as the agent's user, or correct `user` and `password_file` in its "
                "block `builder`.",
            )
            if _NOT_LET_IN.search(why)
            else ("does not say whether it has", "See that it can be reached from here (builder.destination).")
        )
        raise LaunchFailed(
            f"The registry {what} the image {image}: {why}. {todo}",
            log=bytes(output),
            stage="build",
            reason="registry",
            cause=Cause.INFRASTRUCTURE,
        )

    async def inspect(self) -> BuilderFacts:
        """Return what is known of the builder; `LaunchFailed` if there is none. Starts nothing."""
        output = bytearray()
        code = await self._run(("inspect", *self._instance[1:]), Path("/"), output.extend)
        text = output.decode(errors="replace")
        fields = dict(reversed(_FIELD.findall(text)))  # of a name that comes several times, the first counts
        if code != 0 or "Name" not in fields:
            raise LaunchFailed(
                f"{self._program} knows no such builder: {last_error(text) or f'it ended with code {code}'}.",
                stage="build",
                reason="builder",
                cause=Cause.INFRASTRUCTURE,
            )
        return BuilderFacts(
            fields["Name"], fields.get("Driver", ""), fields.get("Status", ""), fields.get("Error", "")[:SHOWN_CHARS]
        )

    async def _run(self, words: Sequence[str], folder: Path, on_output: Callable[[bytes], object]) -> int:
        process = await asyncio.create_subprocess_exec(
            self._program,
            *words,
            cwd=folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            while data := await process.stdout.read(READ_BYTES):
                on_output(data)
            return await process.wait()
        finally:
            # Also when the launch is stopped in the middle, with whatever credential helper it has started.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def find_buildx(environment: Mapping[str, str]) -> Path:
    """Return the plugin's program; `LaunchFailed` if it is not installed."""
    folders = [config_folder(environment) / "cli-plugins", *PLUGIN_FOLDERS]
    folders += [Path(entry) for entry in environment.get("PATH", "").split(os.pathsep) if entry]
    for folder in folders:
        if os.access(folder / PLUGIN, os.X_OK):
            return folder / PLUGIN
    raise LaunchFailed(
        f"This agent is to build images (`builder.type` is docker), and {PLUGIN} is not installed beside it. Install "
        "Docker's buildx plugin there, or leave the block `builder` out: then nothing is built.",
        stage="build",
        reason="no_buildx",
        cause=Cause.INFRASTRUCTURE,
    )


def _arguments(wanted: Build) -> list[str]:
    words = ["build", "--progress=plain", f"--file={wanted.context / DOCKERFILE}"]
    words += [f"--tag={wanted.image}", f"--metadata-file={wanted.metadata}"]
    # Attestations make an index of an image, which some platforms do not run, and tell of the machine that built it.
    words += ["--provenance=false", "--sbom=false", "--push" if wanted.push_to else "--load"]
    if wanted.platform:
        words.append(f"--platform={wanted.platform}")
    if wanted.keeps_cache and wanted.push_to:
        cache = f"type=registry,ref={wanted.push_to}:{CACHE_TAG}"
        words += [f"--cache-from={cache}"]
        # As an image, which every registry takes; and an image that is built is not failed for its cache.
        words += [f"--cache-to={cache},mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true"]
    return words


def _without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("WANDB_API_KEY")}
